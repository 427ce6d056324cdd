"""A slot and its real runner process: jobs, stalls, cancels, crashes, warmth, logs."""

import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jsm_queue import processes
from tests.unit.workers.fakes import PROGRAM, job
from tests.waiting import wait_for
from workers import slots
from workers.hardware import SlotPlan
from workers.runner import RESULT, EventLine
from workers.slots import Ended, Slot

STALL_S = 30.0


@pytest.fixture
def slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slot]:
    monkeypatch.setattr(slots, "RUNNER", ("-c", PROGRAM))
    slot = Slot(SlotPlan(0, "cpu", "cpu", 3), tmp_path / "home")
    yield slot
    slot.kill()


def run(slot: Slot, folder: Path, wish: str, stall_s: float = STALL_S, base: str | None = None) -> Ended | None:
    return slot.run(job(folder, wish), base, stall_s, threading.Event(), lambda _: None)


def runner_pid(slot: Slot) -> int | None:
    process = processes.find_leftover(slot.pid_file)
    return process.pid if process else None


def test_a_job_leaves_its_result_and_a_warm_runner(slot: Slot, tmp_path: Path) -> None:
    seen: list[EventLine] = []
    assert slot.run(job(tmp_path / "1", "ok"), "base", STALL_S, threading.Event(), seen.append) is None
    assert (tmp_path / "1" / "out" / RESULT).exists()
    assert (seen[0].position, seen[0].total) == (1, 2)
    assert slot.warm_base == "base"
    first = runner_pid(slot)
    assert run(slot, tmp_path / "2", "ok") is None
    assert runner_pid(slot) == first


@pytest.mark.parametrize(
    ("wish", "reason", "warm"),
    [("data", "error", True), ("bug", "crashed", False), ("oom", "oom", False), ("disk", "disk", False)],
)
def test_only_a_plain_error_keeps_the_runner(slot: Slot, tmp_path: Path, wish: str, reason: str, warm: bool) -> None:
    ended = run(slot, tmp_path, wish)
    assert ended and ended.reason == reason
    assert "Traceback" in ended.log_tail
    assert (runner_pid(slot) is not None) == warm


def test_a_runner_that_dies_is_a_crash_and_the_next_job_gets_a_new_one(slot: Slot, tmp_path: Path) -> None:
    ended = run(slot, tmp_path / "1", "die")
    assert ended and ended.reason == "crashed"
    assert "exit code 9" in ended.message
    assert "the kind says: die" in ended.log_tail
    assert run(slot, tmp_path / "2", "ok") is None


@pytest.mark.skipif(not hasattr(slots.signal, "SIGKILL"), reason="signals")
def test_a_killed_runner_says_that_memory_may_have_run_out(slot: Slot, tmp_path: Path) -> None:
    ended = run(slot, tmp_path, "kill")
    assert ended and ended.reason == "crashed"
    assert "SIGKILL: the system killed it, perhaps because memory ran out" in ended.message


def test_silence_is_a_stall(slot: Slot, tmp_path: Path) -> None:
    ended = run(slot, tmp_path, "sleep", stall_s=1.5)
    assert ended and (ended.reason, ended.message) == ("stalled", "no progress for 2 s")
    assert runner_pid(slot) is None


def test_a_stop_kills_the_runner(slot: Slot, tmp_path: Path) -> None:
    stop, seen = threading.Event(), threading.Event()
    found: list[Ended | None] = []

    def work() -> None:
        found.append(slot.run(job(tmp_path, "sleep"), None, STALL_S, stop, lambda _: seen.set()))

    thread = threading.Thread(target=work)
    thread.start()
    assert seen.wait(20)
    pid = runner_pid(slot)
    stop.set()
    thread.join(20)
    assert found[0] and found[0].reason == "cancelled"
    assert pid and not psutil.pid_exists(pid)


def test_the_tail_holds_the_jobs_own_lines_only(slot: Slot, tmp_path: Path) -> None:
    run(slot, tmp_path / "1", "ok")
    ended = run(slot, tmp_path / "2", "data")
    assert ended and "the kind says: data" in ended.log_tail
    assert "the kind says: ok" not in ended.log_tail


def test_a_long_log_is_put_aside_under_a_warm_runner(
    slot: Slot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "LOG_BYTES", 10)
    run(slot, tmp_path / "1", "ok")
    run(slot, tmp_path / "2", "data")
    assert "the kind says: ok" in slot.log.with_name("slot0.log.1").read_text(encoding="utf-8")
    kept = slot.log.read_text(encoding="utf-8")
    assert "judge begins on cpu" in kept.splitlines()[0] and "the kind says: data" in kept and "ok" not in kept


def test_a_runner_left_by_a_killed_agent_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "RUNNER", ("-c", "import time; time.sleep(600)"))
    left = processes.spawn(["sleep", "600"], tmp_path / "log")
    processes.write_pid_file(tmp_path / "home" / "slots" / "slot0.pid", left.pid)
    Slot(SlotPlan(0, "cpu", "cpu", 1), tmp_path / "home")
    wait_for(lambda: left.poll() is not None, "its end")


def test_threads_and_devices_are_told_by_the_environment(tmp_path: Path) -> None:
    cpu = Slot(SlotPlan(1, "cpu", "cpu", 3), tmp_path).environment()
    assert (cpu["OMP_NUM_THREADS"], cpu["CUDA_VISIBLE_DEVICES"]) == ("3", "")
    assert Slot(SlotPlan(0, "gpu", "cuda:0", 3, "GPU-1"), tmp_path).environment()["CUDA_VISIBLE_DEVICES"] == "GPU-1"


def test_a_gpu_keeps_its_runner_for_the_same_base_only() -> None:
    assert slots.keeps_runner("gpu", "a", "a")
    assert not slots.keeps_runner("gpu", "a", "b")
    assert not slots.keeps_runner("gpu", "a", None)
    assert slots.keeps_runner("cpu", "a", "b")
