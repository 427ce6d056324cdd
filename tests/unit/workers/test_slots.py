"""A slot and its real runner process: jobs, stalls, cancels, crashes, warmth, logs."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from jsm_queue import processes
from jsm_queue.protocol import Desired, ResultRequest
from tests.unit.workers.fakes import PROGRAM, held, job
from tests.waiting import wait_for
from workers import checkpointfolder, slots
from workers.board import Ended, Wish
from workers.hardware import SlotPlan
from workers.lines import EventLine, JobLine
from workers.runner import RESULT
from workers.slots import Slot

STALL_S = 30.0


@pytest.fixture
def slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slot]:
    monkeypatch.setattr(slots, "RUNNER", ("-c", PROGRAM))
    slot = Slot(SlotPlan(0, "cpu", "cpu", 3), tmp_path / "home")
    yield slot
    slot.kill()


def run(slot: Slot, folder: Path, wish: str, stall_s: float = STALL_S, base: str | None = None) -> Ended | None:
    return slot.run(job(folder, wish), base, stall_s, held(), lambda _: None)


def runner_pid(slot: Slot) -> int | None:
    process = processes.find_leftover(slot.pid_file)
    return process.pid if process else None


def test_a_job_leaves_its_result_and_a_warm_runner(slot: Slot, tmp_path: Path) -> None:
    seen: list[EventLine] = []
    assert slot.run(job(tmp_path / "1", "ok"), "base", STALL_S, held(), seen.append) is None
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
    assert "SIGKILL: somebody killed it, or the system, which does so when memory runs out" in ended.message


def test_silence_is_a_stall(slot: Slot, tmp_path: Path) -> None:
    ended = run(slot, tmp_path, "sleep", stall_s=1.5)
    assert ended and (ended.reason, ended.message) == ("stalled", "no progress for 2 s")
    assert runner_pid(slot) is None


class Running:
    """A job in a slot, in a thread, and what the slot hears of it."""

    def __init__(self, slot: Slot, line: JobLine, stall_s: float = STALL_S) -> None:
        self.line, self.held, self.events = line, held(), list[EventLine]()
        self._ended: list[Ended | None] = []
        run = lambda: self._ended.append(slot.run(line, None, stall_s, self.held, self.events.append))  # noqa: E731
        self._thread = threading.Thread(target=run)
        self._thread.start()
        wait_for(lambda: self.seen("progress"), "the first progress")

    def wish(self, wish: Desired) -> None:
        self.held.obey(Wish(wish, "a game runs"))

    def seen(self, event: str) -> int:
        return sum(each.event == event for each in self.events)

    @property
    def over(self) -> bool:
        return bool(self._ended)

    def ended(self) -> Ended | None:
        self._thread.join(30)
        return self._ended[0]


def test_a_stop_kills_the_runner(slot: Slot, tmp_path: Path) -> None:
    running = Running(slot, job(tmp_path, "sleep"))
    pid = runner_pid(slot)
    running.wish("stop")
    ended = running.ended()
    assert ended and ended.reason == "cancelled"
    assert pid and not psutil.pid_exists(pid)
    assert running.seen("saved") == 0


def test_a_release_kills_the_runner_after_a_last_checkpoint(slot: Slot, tmp_path: Path) -> None:
    running = Running(slot, job(tmp_path, "steps"))
    pid = runner_pid(slot)
    running.wish("release")
    ended = running.ended()
    assert ended and (ended.reason, ended.message) == ("released", "a game runs")
    assert pid and not psutil.pid_exists(pid)
    saved, last = running.events[-1], running.events[-2]
    assert saved.event == "saved" and last.event in ("checkpoint", "progress")
    newest = checkpointfolder.list_checkpoints(tmp_path / "checkpoints")[-1]
    assert newest.position == saved.position > 0 and newest.path.read_text(encoding="utf-8") == str(saved.position)


def test_a_release_waits_for_no_kind_that_saves_nothing(
    slot: Slot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "SAVE_S", 0.2)
    running = Running(slot, job(tmp_path, "sleep"))
    running.wish("release")
    ended = running.ended()
    assert ended and ended.reason == "released" and running.seen("saved") == 0
    assert slots.UNSAVED in ended.message


def test_a_pause_holds_the_steps_and_is_no_stall(slot: Slot, tmp_path: Path) -> None:
    running = Running(slot, job(tmp_path, "steps"), stall_s=3.0)
    running.wish("pause")
    wait_for(lambda: running.seen("paused"), "the pause")
    stood = running.seen("progress")
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 3.5, "longer than a stall")
    assert running.seen("progress") == stood
    newest = checkpointfolder.list_checkpoints(tmp_path / "checkpoints")[-1]
    running.wish("run")
    wait_for(lambda: running.seen("progress") and running.events[-1].position > newest.position, "more steps")
    (tmp_path / "inputs" / "enough").touch()
    assert running.ended() is None
    result = ResultRequest.model_validate_json((running.line.folder / RESULT).read_bytes())
    assert result.metrics["begun"] == 0
    assert result.provenance["seconds"] < time.monotonic() - began, "it stood still for longer than that"


def test_a_machine_that_slept_did_not_stall(slot: Slot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some systems' clocks go on while they sleep."""
    looks: list[float] = []

    def monotonic() -> float:
        looks.append(time.monotonic() + 36_000)
        return looks[-1]

    running = Running(slot, job(tmp_path, "sleep"), stall_s=60.0)
    monkeypatch.setattr(slots, "time", SimpleNamespace(monotonic=monotonic))
    wait_for(lambda: len(looks) > 10 or running.over, "looks at the runner")
    assert not running.over
    running.wish("stop")
    ended = running.ended()
    assert ended and ended.reason == "cancelled"


def test_a_release_ends_what_stands_still(slot: Slot, tmp_path: Path) -> None:
    running = Running(slot, job(tmp_path, "steps"))
    running.wish("pause")
    wait_for(lambda: running.seen("paused"), "the pause")
    running.wish("release")
    ended = running.ended()
    assert ended and ended.reason == "released" and running.seen("saved") == 1
    assert slots.UNSAVED not in ended.message


def test_a_job_goes_on_from_its_checkpoint_after_its_runner_was_killed(slot: Slot, tmp_path: Path) -> None:
    running = Running(slot, job(tmp_path, "steps"))
    wait_for(lambda: running.seen("checkpoint") > 2, "checkpoints")
    pid = runner_pid(slot)
    assert pid
    processes.kill_tree(pid)
    ended = running.ended()
    assert ended and ended.reason == "crashed"
    found = checkpointfolder.list_checkpoints(tmp_path / "checkpoints")
    assert len(found) == checkpointfolder.KEPT
    newest = found[-1]
    line = job(tmp_path, "steps").model_copy(update={"resume": newest.path, "position": newest.position, "ooms": 2})
    (tmp_path / "inputs" / "enough").touch()
    again = Running(slot, line)
    assert again.ended() is None
    result = ResultRequest.model_validate_json((line.folder / RESULT).read_bytes())
    assert result.metrics == {"begun": newest.position, "steps": newest.position + 1, "ooms": 2}
    assert result.provenance["resumed_from"] == newest.position


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


def test_a_runner_s_temporary_files_go_with_it_however_it_ends(slot: Slot, tmp_path: Path) -> None:
    def kept() -> list[Path]:
        return list(slot.pid_file.parent.glob("slot0-*/tmp*"))

    assert run(slot, tmp_path / "1", "keep") is None
    assert len(kept()) == 1, "a warm runner may need them"
    assert run(slot, tmp_path / "2", "keep and sleep", stall_s=1.5)
    assert not list(slot.pid_file.parent.glob("slot0-*"))
    (slot.pid_file.parent / "slot0-killed" / "tmp").mkdir(parents=True)
    Slot(SlotPlan(0, "cpu", "cpu", 1), tmp_path / "home")
    assert not kept(), "nor what a killed agent left"


def test_threads_and_devices_are_told_by_the_environment(tmp_path: Path) -> None:
    cpu = Slot(SlotPlan(1, "cpu", "cpu", 3), tmp_path).environment()
    assert (cpu["OMP_NUM_THREADS"], cpu["CUDA_VISIBLE_DEVICES"]) == ("3", "")
    assert Slot(SlotPlan(0, "gpu", "cuda:0", 3, "GPU-1"), tmp_path).environment()["CUDA_VISIBLE_DEVICES"] == "GPU-1"


def test_a_gpu_keeps_its_runner_for_the_same_base_only() -> None:
    assert slots.keeps_runner("gpu", "a", "a")
    assert not slots.keeps_runner("gpu", "a", "b")
    assert not slots.keeps_runner("gpu", "a", None)
    assert slots.keeps_runner("cpu", "a", "b")
