"""Many coordinators and workers at once on one store: each offers, claims, accepts and replays the same jobs.

`python -m tests.lifecycle.claimants URL` is one of them as a process of its own; it prints what it won, as JSON.
"""

import json
import sys
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Engine
from sqlmodel import col, select

from jsm_queue import assigning, lifecycle, protocol
from jsm_queue.errors import ConflictError, GoneError
from jsm_queue.kinds import JobDraft
from jsm_queue.planner import Wanted
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, reading, writing
from tests.lifecycle import scene

COUNT = 30
JOBS = [JobDraft("judge", {"x": x}) for x in range(COUNT)]
WORKERS = [f"w{place}" for place in range(4)]
SLOTS = (0, 1)
BOOT = "b" * 32
NOW = 100.0


@dataclass
class Won:
    """What one claimant brought about: the jobs whose results were taken from it, replays that were answered so,
    and how often somebody else was faster."""

    accepted: list[str] = field(default_factory=list)
    replays: int = 0
    refused: int = 0


def prepare(engine: Engine) -> None:
    """Four workers with two slots each, and a study with COUNT jobs that wait for nothing."""
    with writing(engine) as session:
        for worker in WORKERS:
            scene.join(session, worker)
            row = session.get_one(t.Worker, worker)
            greeting = protocol.HelloRequest(
                boot_id=BOOT, hardware=scene.HARDWARE, slots=[scene.report(idx, free=True) for idx in SLOTS]
            )
            lifecycle.hello(session, row, greeting, 1e9, NOW)
        study, _ = lifecycle.add_study(session, {"name": "many"}, {}, NOW)
        lifecycle.list_jobs(session, study.id, [Wanted("bases", scene.CELL, job) for job in JOBS], NOW)


def work(engine: Engine) -> Won:
    """Offer, claim, accept, replay and free slots until every job is done. Only 409 and 410 may come of it."""
    won, delivery = Won(), uuid.uuid4().hex
    while True:
        assigning.assign(engine, lambda *_: None, NOW)
        with reading(engine) as session:
            runs = session.exec(select(t.Run.id, t.Run.worker).where(t.Run.state == "offered")).all()
            held = select(t.Attempt.id, t.Attempt.job, t.Attempt.worker, t.Attempt.state)
            attempts = session.exec(held.where(col(t.Attempt.state).in_(("running", "accepted")))).all()
            left = session.exec(select(t.Job.id).where(t.Job.state != "done")).all()
        if not left:
            return won
        for run, worker in runs:
            _claim(engine, won, run, worker, delivery)
        running = [attempt for attempt in attempts if attempt[-1] == "running"]
        accepted = [attempt for attempt in attempts if attempt[-1] == "accepted"]
        for attempt, job, worker, _ in [*running, *accepted[-1:]]:
            _accept(engine, won, attempt, job, worker)
        _free(engine)


def _claim(engine: Engine, won: Won, run: str, worker: str, delivery: str) -> None:
    try:
        with writing(engine) as session:
            request = protocol.ClaimRequest(boot_id=BOOT, delivery=delivery)
            lifecycle.claim(session, run, session.get_one(t.Worker, worker), request, NOW)
    except (ConflictError, GoneError):
        won.refused += 1


def _accept(engine: Engine, won: Won, attempt: str, job: str, worker: str) -> None:
    try:
        with writing(engine) as session:
            first = lifecycle.accept(session, attempt, worker, scene.result({}, {"q1": 1.0}), NOW)
    except (ConflictError, GoneError):
        won.refused += 1
        return
    if first:
        won.accepted.append(job)
    else:
        won.replays += 1


def _free(engine: Engine) -> None:
    """A slot is free when its run's attempt is accepted."""
    with reading(engine) as session:
        over = session.exec(
            select(t.Run.id, t.Run.worker, t.Run.slot)
            .join(t.Attempt, col(t.Attempt.run) == col(t.Run.id))
            .where(t.Run.state == "claimed", t.Attempt.state == "accepted")
        ).all()
    for run, worker, slot in over:
        with writing(engine) as session:
            report = scene.report(slot, free=True, run=run)
            beat = protocol.HeartbeatRequest(boot_id=BOOT, slots=[report])
            lifecycle.heartbeat(session, session.get_one(t.Worker, worker), beat, 1e9, NOW)


def check(engine: Engine, all_won: Iterable[Won]) -> None:
    """Exactly one accepted result a job, one live attempt a job, one open run a slot; no job is lost."""
    accepted = [job for won in all_won for job in won.accepted]
    assert sorted(accepted) == sorted(job.id for job in JOBS), "a job was accepted twice, or never"
    with reading(engine) as session:
        jobs = {job.id: job for job in session.exec(select(t.Job)).all()}
        winners = session.exec(select(t.Attempt.job, t.Attempt.id).where(t.Attempt.state == "accepted")).all()
        records = session.exec(select(t.Record.job, t.Record.attempt)).all()
        numbers = session.exec(select(t.Event.seq).order_by(col(t.Event.seq))).all()
        still_open = session.exec(select(t.Run.worker, t.Run.slot).where(t.Run.state != "closed")).all()
    assert {job: row.accepted_attempt for job, row in jobs.items()} == dict(winners) == dict(records)
    assert len(winners) == len(records) == COUNT
    assert {job.state for job in jobs.values()} == {"done"}
    assert list(numbers) == list(range(1, len(numbers) + 1)), "event numbers have a gap"
    assert len(still_open) == len(set(still_open)), "two open runs on a slot"


def main() -> None:
    """One claimant as a process."""
    engine = open_store(sys.argv[1])
    print(json.dumps(work(engine).__dict__))


if __name__ == "__main__":
    main()
