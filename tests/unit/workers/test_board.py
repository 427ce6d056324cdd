"""What slots and attempts are said to be doing, under every order of events."""

from workers.board import Board
from workers.hardware import SlotPlan


def board() -> Board:
    return Board([SlotPlan(0, "gpu", "cuda:0", 4, "GPU-1"), SlotPlan(1, "cpu", "cpu", 4)])


def test_a_slot_belongs_to_one_run_at_a_time() -> None:
    b = board()
    assert b.occupy(1, "aaaaaaaa")
    assert not b.occupy(1, "bbbbbbbb")
    b.release(1, "base")
    assert not b.occupy(1, "aaaaaaaa"), "a message that came twice does not run twice"
    assert b.occupy(1, "bbbbbbbb")
    assert not b.occupy(7, "cccccccc"), "a slot that this machine does not have"


def test_a_free_slot_still_names_its_last_run() -> None:
    """The api closes that run only: a report written before a claim cannot close the claimed one."""
    b = board()
    b.occupy(1, "aaaaaaaa")
    b.release(1, "base")
    [gpu, cpu] = b.slot_reports({0: 5})
    assert (cpu.free, cpu.run, cpu.warm_base, cpu.vram_free) == (True, "aaaaaaaa", "base", 0)
    assert (gpu.free, gpu.run, gpu.kind, gpu.vram_free) == (True, None, "gpu", 5)


def test_no_slot_is_free_while_leaving() -> None:
    b = board()
    assert all(report.free for report in b.slot_reports({}))
    b.leave()
    assert not any(report.free for report in b.slot_reports({}))


def test_changes_are_told_at_once_and_progress_is_not() -> None:
    b = board()
    b.begin("a1a1a1a1")
    b.news.clear()
    b.progress("a1a1a1a1", 3, 10, {"loss": 1.0})
    assert not b.news.is_set()
    for change in (lambda: b.occupy(0, "aaaaaaaa"), lambda: b.release(0, None), lambda: b.delivering("a1a1a1a1")):
        b.news.clear()
        change()
        assert b.news.is_set()


def test_progress_is_kept_while_delivering() -> None:
    b = board()
    b.begin("a1a1a1a1")
    b.progress("a1a1a1a1", 3, 10, {"loss": 1.0})
    b.delivering("a1a1a1a1")
    b.delivering("b2b2b2b2")  # of an earlier session
    assert [(r.attempt, r.phase, r.position) for r in b.attempt_reports()] == [
        ("a1a1a1a1", "delivering", 3),
        ("b2b2b2b2", "delivering", 0),
    ]
    b.forget("a1a1a1a1")
    assert not b.holds("a1a1a1a1") and b.holds("b2b2b2b2")


def test_a_stop_reaches_what_runs_but_not_what_is_finished() -> None:
    b = board()
    running, finished, other = b.begin("a1a1a1a1"), b.begin("b2b2b2b2"), b.begin("c3c3c3c3")
    assert running and finished and other
    b.delivering("b2b2b2b2")
    b.obey({"a1a1a1a1": "stop", "b2b2b2b2": "stop", "c3c3c3c3": "run", "d4d4d4d4": "stop"})
    assert (running.stop.is_set(), finished.stop.is_set(), other.stop.is_set()) == (True, False, False)


def test_a_stop_that_came_before_its_message_counts() -> None:
    b = board()
    b.obey({"a1a1a1a1": "stop"})
    held = b.begin("a1a1a1a1")
    assert held and held.stop.is_set()


def test_an_attempt_begins_once_and_none_while_leaving() -> None:
    b = board()
    held = b.begin("a1a1a1a1")
    assert held and b.begin("a1a1a1a1") is None
    b.leave()
    assert held.stop.is_set()
    assert b.begin("b2b2b2b2") is None


def test_a_release_gives_the_attempt_back_and_a_stop_does_not() -> None:
    b = board()
    released, stopped = b.begin("a1a1a1a1"), b.begin("b2b2b2b2")
    assert released and stopped
    b.obey({"a1a1a1a1": "release", "b2b2b2b2": "stop"})
    assert (released.stop.is_set(), released.released) == (True, True)
    assert (stopped.stop.is_set(), stopped.released) == (True, False)
