"""Following a study to its end: redrawn on a terminal, plain growing lines elsewhere."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import httpx
from rich.console import Group
from rich.live import Live

from jsm_queue.cli import client, console, view
from jsm_queue.errors import SetupError

POLL_S = 1.5  # between two looks; the api shares its cores with the work
PATIENCE_S = 90.0  # how long an api that was killed may take to answer again
ALIVE_S = 30.0  # between two signs of life where the output only grows


def look(api: httpx.Client, study_id: str, before: view.Snapshot | None = None) -> view.Snapshot:
    """The study as it is now. Figures of finished jobs are asked for only when more are finished than `before`."""
    path = f"/v1/studies/{study_id}"
    study = client.call(api, "GET", path)
    jobs = client.pages(api, f"{path}/jobs", "jobs")
    if before and before.study["jobs"]["done"] == study["jobs"]["done"]:
        return view.Snapshot(study, jobs, before.comparisons)
    return view.Snapshot(study, jobs, client.call(api, "GET", f"{path}/comparisons"))


def follow(api: httpx.Client, study_id: str, tick: Callable[[], None] = lambda: None) -> view.Snapshot:
    """Shows the study until it has ended or was cancelled; returns how it looked then.

    `tick` is called at each look. Raises SetupError when the api does not answer for `PATIENCE_S`.
    """
    started, said_at, answered_at = time.monotonic(), time.monotonic(), time.monotonic()
    before: view.Snapshot | None = None
    reused = 0
    live = Live(console=console.out, auto_refresh=False) if console.out.is_terminal else None
    with live or nullcontext():
        while True:
            tick()
            try:
                now = look(api, study_id, before)
            except SetupError:
                if time.monotonic() - answered_at > PATIENCE_S:
                    raise
                time.sleep(POLL_S)
                continue
            answered_at = time.monotonic()
            reused = max(reused, now.study["jobs"]["reused"]) if before else done_before(now)
            if live:
                lines = view.screen(now, reused, time.monotonic() - started)
                live.update(Group(*lines), refresh=True)
            else:
                said_at = _say(before, now, reused, time.monotonic() - started, said_at)
            if now.study["state"] in ("ended", "cancelled"):
                return now
            before = now
            time.sleep(POLL_S)


def done_before(now: view.Snapshot) -> int:
    """How many jobs needed no work in a command that just began."""
    return sum(job["state"] == "done" for job in now.jobs)


def _say(before: view.Snapshot | None, now: view.Snapshot, reused: int, seconds: float, said_at: float) -> float:
    """Prints what is new, or a sign of life after a while. Returns when something was last said."""
    lines = view.news(before, now)
    if not lines and time.monotonic() - said_at > ALIVE_S:
        active = [view.running_line(job) for job in now.jobs if job["state"] == "active"]
        lines = [view.total_line(now, reused, seconds), *active]
    for line in lines:
        console.out.print(line)
    return time.monotonic() if lines else said_at


def tally(first: view.Snapshot, last: view.Snapshot) -> dict[str, Any]:
    """How many done jobs ran since `first` and how many were there already, in this study or in another."""
    old = {job["id"] for job in first.jobs if job["state"] == "done"}
    done = [job for job in last.jobs if job["state"] == "done"]
    run = [job for job in done if not job["reused"] and job["id"] not in old]
    return {"run": len(run), "reused": len(done) - len(run)}
