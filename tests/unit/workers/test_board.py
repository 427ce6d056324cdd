"""What slots and attempts are said to be doing, under every order of events."""

import threading

import pytest

from jsm_queue.protocol import Desired, WorkerWish
from workers.board import LEFT, STUDY_PAUSED, WORKER_DRAINED, WORKER_PAUSED, Board, Ended, OwnerWish, Room
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
    [gpu, cpu] = b.slot_reports({0: Room(5, 9)})
    assert (cpu.free, cpu.run, cpu.warm_base, cpu.vram_free) == (True, "aaaaaaaa", "base", 0)
    assert (gpu.free, gpu.run, gpu.kind, gpu.vram_free, gpu.vram_total) == (True, None, "gpu", 5, 9)


def test_no_slot_is_free_while_leaving() -> None:
    b = board()
    assert all(report.free for report in b.slot_reports({}))
    b.leave()
    assert not any(report.free for report in b.slot_reports({}))


def test_changes_are_told_at_once_and_progress_is_not() -> None:
    b = board()
    b.begin("a1a1a1a1", 0)
    b.news.clear()
    b.progress("a1a1a1a1", 3, 10, {"loss": 1.0})
    assert not b.news.is_set()
    for change in (lambda: b.occupy(0, "aaaaaaaa"), lambda: b.release(0, None), lambda: b.delivering("a1a1a1a1")):
        b.news.clear()
        change()
        assert b.news.is_set()


def test_progress_is_kept_while_delivering() -> None:
    b = board()
    b.begin("a1a1a1a1", 0)
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
    running, finished, other = b.begin("a1a1a1a1", 0), b.begin("b2b2b2b2", 0), b.begin("c3c3c3c3", 0)
    assert running and finished and other
    b.delivering("b2b2b2b2")
    b.obey({"a1a1a1a1": "stop", "b2b2b2b2": "stop", "c3c3c3c3": "run", "d4d4d4d4": "stop"})
    assert (running.stop.is_set(), finished.stop.is_set(), other.stop.is_set()) == (True, False, False)


def test_a_stop_that_came_before_its_message_counts() -> None:
    b = board()
    b.obey({"a1a1a1a1": "stop"})
    held = b.begin("a1a1a1a1", 0)
    assert held and held.stop.is_set()


def test_an_attempt_begins_once_and_none_while_leaving() -> None:
    b = board()
    held = b.begin("a1a1a1a1", 0)
    assert held and b.begin("a1a1a1a1", 0) is None
    b.leave()
    assert held.stop.is_set()
    assert b.begin("b2b2b2b2", 0) is None


def test_a_release_gives_the_attempt_back_and_a_stop_does_not() -> None:
    b = board()
    released, stopped = b.begin("a1a1a1a1", 0), b.begin("b2b2b2b2", 0)
    assert released and stopped
    b.obey({"a1a1a1a1": "release", "b2b2b2b2": "stop"})
    assert released.stop.is_set() and released.ended() == Ended("released", STUDY_PAUSED)
    assert stopped.stop.is_set() and stopped.ended() == Ended("cancelled", "no longer wanted")


@pytest.mark.parametrize(
    ("owner", "worker", "desired", "wish", "why"),
    [
        ("run", "run", "run", "run", ""),
        ("pause", "run", "run", "pause", "a game runs"),
        ("pause", "pause", "run", "pause", "a game runs"),
        ("run", "pause", "run", "pause", WORKER_PAUSED),
        ("pause", "run", "release", "release", STUDY_PAUSED),
        ("release", "pause", "run", "release", "a game runs"),
        ("pause", "drain", "run", "release", WORKER_DRAINED),
        ("release", "drain", "stop", "stop", STUDY_PAUSED),
    ],
)
@pytest.mark.parametrize("begun", [True, False])
def test_the_strongest_wish_counts_whoever_has_it(
    owner: OwnerWish, worker: WorkerWish, desired: Desired, wish: str, why: str, begun: bool
) -> None:
    b = board()
    held = b.begin("a1a1a1a1", 0) if begun else None
    other = b.begin("b2b2b2b2", 1)
    b.owner_wishes(0, owner, "a game runs")
    b.obey({"a1a1a1a1": desired}, worker)
    held = held or b.begin("a1a1a1a1", 0)
    assert held and (held.wish, held.why) == (wish, why)
    assert held.stop.is_set() == (wish in ("release", "stop"))
    assert other and other.wish == {"run": "run", "pause": "pause", "drain": "release"}[worker], "another slot's"


def test_a_pause_is_taken_back_and_a_release_is_not() -> None:
    b = board()
    held, other = b.begin("a1a1a1a1", 0), b.begin("b2b2b2b2", 1)
    assert held and other
    b.owner_wishes(0, "pause", "the mouse moves")
    b.owner_wishes(0, "run", "")
    assert held.wish == "run"
    b.owner_wishes(1, "release", "a game runs")
    b.owner_wishes(1, "run", "")
    assert other.wish == "release", "its runner may be gone"
    b.obey({"b2b2b2b2": "stop"})
    assert other.wish == "stop"


def test_a_kept_slot_is_not_free_and_says_why() -> None:
    b = board()
    b.news.clear()
    b.owner_wishes(0, "pause", "a game runs")
    assert b.news.is_set()
    [gpu, cpu] = b.slot_reports({})
    assert (gpu.free, gpu.hold) == (False, "a game runs") and (cpu.free, cpu.hold) == (True, None)
    b.obey({}, "drain")
    assert [(slot.free, slot.hold) for slot in b.slot_reports({})] == [(False, "a game runs"), (False, None)]
    b.obey({}, "run")
    b.owner_wishes(0, "run", "")
    assert all(slot.free and slot.hold is None for slot in b.slot_reports({}))


def test_a_run_that_is_turned_away_is_closed_once_the_slot_is_free_again() -> None:
    b = board()
    b.owner_wishes(0, "pause", "a game runs")
    assert not b.occupy(0, "aaaaaaaa")
    b.owner_wishes(0, "run", "")
    [gpu, _] = b.slot_reports({})
    assert (gpu.free, gpu.run) == (True, "aaaaaaaa")
    assert b.occupy(0, "bbbbbbbb")


def test_what_stands_still_says_why_until_it_moves() -> None:
    b = board()
    b.begin("a1a1a1a1", 0)
    b.owner_wishes(0, "pause", "a game runs")
    b.progress("a1a1a1a1", 3, 10, {})
    assert b.attempt_reports()[0].paused is None, "it is at work until it says so"
    b.stands("a1a1a1a1")
    assert (b.attempt_reports()[0].paused, b.attempt_reports()[0].position) == ("a game runs", 3)
    b.owner_wishes(0, "run", "")
    b.progress("a1a1a1a1", 4, 10, {})
    assert b.attempt_reports()[0].paused is None


def test_what_has_not_begun_waits_a_pause_out() -> None:
    b = board()
    b.owner_wishes(0, "pause", "a game runs")
    held = b.begin("a1a1a1a1", 0)
    assert held
    waiting = threading.Thread(target=held.wait_out_pause)
    waiting.start()
    b.owner_wishes(0, "pause", "another game runs")
    assert waiting.is_alive()
    b.leave()
    waiting.join(20)
    assert not waiting.is_alive() and held.ended() == Ended("released", LEFT)
