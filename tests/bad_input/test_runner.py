"""A runner that hangs, and one without memory left: the attempt ends with the reason, and the slot goes on."""

import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jsm_queue import processes
from tests.unit.workers.fakes import held, job
from tests.waiting import wait_for
from workers import slots
from workers.hardware import SlotPlan
from workers.slots import Ended, Slot

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and memory limits of POSIX")

PROGRAM = textwrap.dedent(
    """
    import psutil, resource, sys, types
    from workers import runner
    from workers.work import Outcome

    def run(work):
        wish = (work.inputs / "wish").read_text(encoding="utf-8")
        held = []
        for step in range(10_000):
            work.progress(step + 1, 10_000, {})
            if wish == "greedy": held.append(bytearray(2**26))
            if wish == "ok": return Outcome([])
            if wish == "busy": sum(range(100_000))
        return Outcome([])

    room = psutil.Process().memory_info().vms + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    module = types.ModuleType("workers.kinds.judge")
    module.run = run
    sys.modules["workers.kinds.judge"] = module
    runner.main()
    """
)


@pytest.fixture
def slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slot]:
    monkeypatch.setattr(slots, "RUNNER", ("-c", PROGRAM))
    slot = Slot(SlotPlan(0, "cpu", "cpu", 1), tmp_path / "home")
    yield slot
    slot.kill()


def run(slot: Slot, folder: Path, wish: str, stall_s: float = 60.0) -> Ended | None:
    return slot.run(job(folder, wish), None, stall_s, held(), lambda _: None)


def test_memory_that_runs_out_is_told_as_that(slot: Slot, tmp_path: Path) -> None:
    ended = run(slot, tmp_path / "1", "greedy")
    assert ended and ended.reason == "oom", ended
    assert run(slot, tmp_path / "2", "ok") is None


def test_a_runner_that_hangs_is_killed_and_the_next_job_gets_a_new_one(slot: Slot, tmp_path: Path) -> None:
    stopped: list[int] = []

    def stop_it() -> None:
        runner = wait_for(lambda: processes.find_leftover(slot.pid_file), "the runner")
        assert runner
        psutil.Process(runner.pid).suspend()
        stopped.append(runner.pid)

    thread = threading.Thread(target=stop_it)
    thread.start()
    ended = run(slot, tmp_path / "1", "busy", stall_s=2.0)
    thread.join()
    assert ended and ended.reason == "stalled", ended
    assert not psutil.pid_exists(stopped[0])
    assert run(slot, tmp_path / "2", "ok") is None
