"""What DESIGN §8 says of the store's state at any time, whatever led to it. Each check names what is broken."""

from collections import Counter
from typing import Any

from tests.lifecycle.rows import DEAD, LIVE, TERMINAL
from tests.lifecycle.scene import JOBS, NAMES

NEEDS = {name: [NAMES[need] for need in draft.needs.values()] for name, draft in JOBS.items()}


def check(view: dict[str, Any]) -> None:
    """All of them. Raises AssertionError."""
    one_accepted_result(view)
    no_job_is_lost(view)
    nothing_is_booked_twice(view)
    only_whole_files_count(view)


def one_accepted_result(view: dict[str, Any]) -> None:
    """1: at most one a job, and its records are those of the attempt that was accepted."""
    accepted = {name: row for name, row in view["attempt"].items() if row[3] == "accepted"}
    jobs = {job: row[1] for job, row in view["job"].items() if row[1] is not None}
    assert {row[0]: name for name, row in accepted.items()} == jobs, "1: the accepted attempts are not the jobs' own"
    assert len(accepted) == len(jobs), "1: a job has two accepted results"
    assert {job for job, row in view["job"].items() if row[0] == "done"} == jobs.keys(), "1: done without a result"
    foreign = {key for key, (attempt, _) in view["record"].items() if jobs.get(key[0]) != attempt}
    assert not foreign, f"1: records of no accepted attempt: {foreign}"


def no_job_is_lost(view: dict[str, Any]) -> None:
    """2: what is not terminal waits for something that isn't, is ready, or is held by a live attempt."""
    live = {row[0]: row[3] for row in view["attempt"].values() if row[3] in LIVE}
    for job, (state, *_) in view["job"].items():
        needs = [view["job"][need][0] for need in view.get("needs", NEEDS)[job]]
        sound = {
            "waiting": not any(need in DEAD for need in needs) and any(need not in TERMINAL for need in needs),
            "ready": all(need == "done" for need in needs) and live.get(job) in (None, "suspect"),
            "active": live.get(job) in ("offered", "running", "delivering"),
            "skipped": any(need in DEAD for need in needs),
        }
        terminal = state in ("done", "failed", "quarantined") and job not in live
        assert sound.get(state, terminal), f"2: {job} is {state}, its needs {needs}, its attempt {live.get(job)}"


def nothing_is_booked_twice(view: dict[str, Any]) -> None:
    """2, 3: one live attempt a job, one open run a slot; and no run is open that nobody can close."""
    live = Counter(row[0] for row in view["attempt"].values() if row[3] in LIVE)
    assert all(count == 1 for count in live.values()), f"3: live attempts {live}"
    taken = Counter((worker, slot) for worker, slot, state, _ in view["run"].values() if state != "closed")
    assert all(count == 1 for count in taken.values()), f"2: open runs {taken}"
    offered = {row[1] for row in view["attempt"].values() if row[3] == "offered"}
    stuck = {run for run, row in view["run"].items() if row[2] == "offered"} - offered
    assert not stuck, f"2: runs that nobody will claim or close: {stuck}"


def only_whole_files_count(view: dict[str, Any]) -> None:
    """7: what a job delivered is here and whole."""
    missing = {key: sha for key, sha in view["ref"].items() if view["artifact"].get(sha, ("gone",))[0] != "whole"}
    assert not missing, f"7: results without their files: {missing}"
