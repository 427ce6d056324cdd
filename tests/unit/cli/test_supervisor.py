"""Parts are started again when they die, and nothing is left behind. Real processes."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from jsm_queue import processes
from jsm_queue.cli import supervisor
from jsm_queue.errors import SetupError

DEADLINE_S = 20.0
SLEEPER = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]


def until(condition: Callable[[], bool], tick: Callable[[], None] = lambda: None) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the deadline passed"
        tick()
        time.sleep(0.02)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def keeper(tmp_path: Path, said: list[str]) -> Iterator[supervisor.Supervisor]:
    keeper = supervisor.Supervisor(tmp_path, said.append)
    yield keeper
    keeper.stop()


def start(keeper: supervisor.Supervisor, argv: list[str], name: str = "part") -> supervisor.Part:
    return keeper.start(name, lambda: processes.spawn(argv, keeper.logs / f"{name}.log"))


def test_a_killed_part_is_started_again(keeper: supervisor.Supervisor, said: list[str]) -> None:
    part = start(keeper, SLEEPER)
    killed = part.process.pid
    os.kill(killed, signal.SIGKILL)
    until(lambda: part.process.pid != killed, keeper.tick)
    assert part.process.poll() is None
    assert said == ["part ended (signal 9); it is started again"]
    noted = processes.find_leftover(keeper.run / "part.pid")
    assert noted and noted.pid == part.process.pid


def test_a_crash_loop_waits_longer_and_says_so(keeper: supervisor.Supervisor, said: list[str]) -> None:
    part = start(keeper, [sys.executable, "-c", "raise SystemExit(7)"])
    until(lambda: part.crashes == 2, keeper.tick)
    assert part.due_at is not None
    assert part.due_at > time.monotonic()
    assert "part ended (exit status 7); it is tried again in 2 s" in said[-1]


def test_waits_grow_to_a_limit() -> None:
    waits = [supervisor.wait_before(crashes) for crashes in range(1, 9)]
    assert waits[:3] == [0, 2, 4]
    assert waits == sorted(waits)
    assert waits[-1] == supervisor.LONGEST_WAIT_S


def test_a_part_that_cannot_start_is_told_with_its_log(keeper: supervisor.Supervisor) -> None:
    part = start(keeper, [sys.executable, "-c", "print('the port is taken'); raise SystemExit(1)"])
    with pytest.raises(SetupError, match=r"(?s)part ended .*the port is taken"):
        keeper.wait_until(part, lambda: False, DEADLINE_S)


def test_a_part_that_ends_with_an_error_is_told_by_it_alone(keeper: supervisor.Supervisor) -> None:
    script = "print('Traceback of an older start'); raise SystemExit('error: No store. Start it')"
    part = start(keeper, [sys.executable, "-c", script])
    with pytest.raises(SetupError) as caught:
        keeper.wait_until(part, lambda: False, DEADLINE_S)
    assert caught.value.message == "part ended (exit status 1): No store. Start it"


def test_a_start_that_fails_later_is_tried_again(keeper: supervisor.Supervisor, said: list[str]) -> None:
    ways = iter([SLEEPER, ["/no/such/program"]])
    part = keeper.start("part", lambda: processes.spawn(next(ways, SLEEPER), keeper.logs / "part.log"))
    os.kill(part.process.pid, signal.SIGKILL)
    until(lambda: len(said) >= 2, keeper.tick)
    until(lambda: part.process.poll() is None, keeper.tick)


def test_nothing_is_left_after_stop(keeper: supervisor.Supervisor) -> None:
    pids = [start(keeper, SLEEPER, name).process.pid for name in ("one", "two")]
    keeper.stop()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert list(keeper.run.glob("*.pid")) == []


def test_leftovers_of_a_killed_supervisor_are_ended(tmp_path: Path, said: list[str]) -> None:
    left = processes.spawn(SLEEPER, tmp_path / "log")
    processes.write_pid_file(tmp_path / "run" / "worker.pid", left.pid)
    supervisor.Supervisor(tmp_path, said.append).end_leftovers()
    until(lambda: left.poll() is not None)
    assert said == ["ended worker, left by a `jsm up` that was killed"]
