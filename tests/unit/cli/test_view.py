"""What a running study looks like."""

from typing import Any

import pytest

from jsm_queue.cli import view, watch

SPEC = {"stages": {"scale": {"sizes": [125, 250]}, "bases": {"seeds": [1]}, "quantization": {"keep": 1}}}


def job(identity: str, state: str, **more: Any) -> dict[str, Any]:
    plain = {"label": f"train a n=125 {identity}", "position": 0, "total": 0, "metrics": {}, "seconds": None}
    return plain | {"id": identity, "state": state, "reused": False, "error": None} | more


def snapshot(jobs: list[dict[str, Any]], verdicts: list[dict[str, Any]] | None = None, **study: Any) -> view.Snapshot:
    states = ("waiting", "ready", "active", "done", "failed", "quarantined", "skipped")
    counts = {state: sum(job["state"] == state for job in jobs) for state in states}
    counts |= {"total": len(jobs), "reused": 0}
    told = {"spec": SPEC, "verdicts": verdicts or [], "state": "running", "stage": "scale", "jobs": counts}
    rows = [
        {"base": "a", "n": n, "seed": seed, "format": None, "split": "validation", "nll_per_token": nll}
        for n, seed, nll in [(None, None, 4.91), (125, 1, 3.6), (125, 2, 3.8)]
    ]
    return view.Snapshot(told | study, jobs, {"scale": rows})


SCALE_VERDICT = {
    "stage": "scale",
    "decision": {"n": 125, "status": "decided", "best": 125, "still_falling": True, "missing": ["a n=250 seed=2"]},
    "evidence": {
        "untrained": {"estimate": 4.91, "low": 4.8, "high": 5.0},
        "sizes": [{"n": 125, "estimate": 3.7, "low": 3.56, "high": 3.84}],
        "reasons": [],
    },
}


def text(lines: list[Any]) -> str:
    return "\n".join(line.plain for line in lines)


def test_a_running_stage_shows_means_and_what_runs() -> None:
    running = job("seed=3", "active", position=371, total=500, metrics={"tokens_per_second": 3480.4, "loss": 2.714})
    shown = text(view.screen(snapshot([running, job("x", "done")]), 0, 61))
    assert "[1/3] scale" in shown
    assert "untrained 4.91 (1 seed)    n=125 3.70 (2 seeds)" in shown
    assert "███████░░░ 371/500  3 480 tok/s  loss 2.71" in shown
    assert "1 of 2 jobs done · 1 running · 0 reused · 1 min 1 s" in shown
    assert "bases" not in shown


def test_a_verdict_shows_intervals_and_what_is_missing() -> None:
    shown = text(view.screen(snapshot([], [SCALE_VERDICT], stage="bases"), 0, 1))
    assert "untrained 4.91 ±.10    n=125 3.70 ±.14" in shown
    assert "VERDICT  n* = 125; still falling, more data may help" in shown
    assert "missing: a n=250 seed=2" in shown
    assert "[2/3] bases" in shown


def test_a_growing_output_says_each_thing_once() -> None:
    first = snapshot([job("1", "active"), job("2", "ready")])
    second = snapshot([job("1", "done", seconds=12.4), job("2", "active")], [SCALE_VERDICT])
    assert view.news(None, first) == []
    said = text(view.news(first, second))
    assert "✔ train a n=125 1" in said
    assert "12 s" in said
    assert "VERDICT" in said
    assert view.news(second, second) == []
    assert "✔" not in text(view.news(None, second))


def test_a_failed_job_says_why() -> None:
    assert "failed  no disk" in view.finished_line(job("1", "failed", error="no disk")).plain


def test_what_nothing_goes_on_without_is_said() -> None:
    shown = text(view.screen(snapshot([job("x", "ready")], waiting_for="a worker with a GPU"), 0, 61))
    assert "0 of 1 jobs done · 0 running · 0 reused · waiting for a worker with a GPU · 1 min 1 s" in shown
    assert "waiting" not in text(view.screen(snapshot([job("x", "ready")], waiting_for=None), 0, 61))


CRASHED = {"reason": "crashed", "message": "killed by signal 9\nlog line"}


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (CRASHED, "crashed: killed by signal 9"),
        ({"reason": "lost", "message": None}, "lost"),
        ({"reason": "error", "message": "x" * 200}, "error: " + "x" * view.MESSAGE_WIDTH),
        (None, ""),
    ],
)
def test_how_the_last_try_ended_is_one_line(ended: dict[str, Any] | None, said: str) -> None:
    assert view.last_end(job("1", "ready", ended=ended)) == said


def test_a_job_that_runs_again_says_why() -> None:
    assert view.running_line(job("1", "active", ended=CRASHED)).plain.endswith(
        "again, after crashed: killed by signal 9"
    )
    assert "again" not in view.running_line(job("1", "active", ended=None)).plain


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (["failed", "quarantined", "quarantined"], "3 jobs failed for good; "),
        (["failed", "skipped", "skipped"], "1 job failed for good, 2 skipped; "),
    ],
)
def test_an_ended_study_says_how_to_try_again_what_it_lost(lost: list[str], said: str) -> None:
    jobs = [job(str(i), state) for i, state in enumerate(["done", *lost])]
    line = view.lost_line(snapshot(jobs, state="ended").study, "study.yaml")
    assert line is not None and line.startswith(f"{said}`jsm retry` tries them again")
    assert line.endswith("another name in study.yaml: everything finished is reused")
    assert view.lost_line(snapshot(jobs, state="running").study, "study.yaml") is None


def test_what_stands_still_does_not_run() -> None:
    now = snapshot([job("1", "active"), job("2", "active", paused="on battery")], state="running")
    assert [line.plain.endswith("stands still: on battery") for line in map(view.running_line, now.jobs)] == [
        False,
        True,
    ]
    assert "1 running · 1 standing still" in view.total_line(now, 0, 1).plain


def test_an_ended_study_that_lost_nothing_says_nothing() -> None:
    assert view.lost_line(snapshot([job("1", "done")], state="ended").study, "study.yaml") is None


def test_markup_in_a_name_is_shown_as_it_is() -> None:
    assert "[bold]" in view.running_line(job("1", "active", label="[bold]")).plain


def test_run_and_reused_are_counted_from_what_was_there() -> None:
    first = snapshot([job("1", "done"), job("2", "ready")])
    last = snapshot([job("1", "done"), job("2", "done"), job("3", "done", reused=True), job("4", "failed")])
    assert watch.tally(first, last) == {"run": 1, "reused": 2}


def test_a_bar_is_never_longer_than_full() -> None:
    assert view.bar(0, 9) == "░" * 10
    assert view.bar(12, 9) == "█" * 10
