"""A job's states, and what one job's end means for those that need it."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import CursorResult, func, update
from sqlmodel import Session, col, select

from jsm_queue.kinds import JobDraft
from jsm_queue.store import tables as t
from jsm_queue.store.events import log

DEAD = ("failed", "quarantined", "skipped")


def add_job(session: Session, job: JobDraft, needs: Sequence[t.Job], now: float) -> t.Job:
    state = "waiting"
    if all(need.state == "done" for need in needs):
        state = "ready"
    elif any(need.state in DEAD for need in needs):
        state = "skipped"
    row = t.Job(id=job.id, kind=job.kind, params=job.params, state=state, created_at=now)
    session.add(row)
    session.add_all(t.JobNeed(job=job.id, name=name, needs=need) for name, need in job.needs.items())
    log(session, now, f"job {state}", job=job.id)
    return row


def set_job(session: Session, job: t.Job, state: str, now: float) -> None:
    job.state = state
    if state in ("done", *DEAD):
        job.ended_at = now
    session.flush()
    log(session, now, f"job {state}", job=job.id)


def swap_state(session: Session, job_id: str, old: str, new: str) -> bool:
    statement = update(t.Job).where(col(t.Job.id) == job_id, col(t.Job.state) == old).values(state=new)
    return cast(CursorResult[Any], session.exec(statement)).rowcount == 1


def needs_done(session: Session, job_id: str) -> bool:
    query = (
        select(func.count())
        .select_from(t.JobNeed)
        .join(t.Job, col(t.Job.id) == col(t.JobNeed.needs))
        .where(t.JobNeed.job == job_id, t.Job.state != "done")
    )
    return session.exec(query).one() == 0


def dependents(session: Session, job_id: str, state: str) -> list[t.Job]:
    query = (
        select(t.Job)
        .join(t.JobNeed, col(t.JobNeed.job) == col(t.Job.id))
        .where(t.JobNeed.needs == job_id, t.Job.state == state)
    )
    return list(session.exec(query))


def _dead_needs(session: Session, job_id: str) -> int:
    query = (
        select(func.count())
        .select_from(t.JobNeed)
        .join(t.Job, col(t.Job.id) == col(t.JobNeed.needs))
        .where(t.JobNeed.job == job_id, col(t.Job.state).in_(DEAD))
    )
    return session.exec(query).one()


def give_up(session: Session, job: t.Job, state: str, error: str, now: float) -> None:
    """active | ready → failed | quarantined; what waits for it is skipped, and so on down."""
    job.error = error
    set_job(session, job, state, now)
    skipped = dependents(session, job.id, "waiting")
    while skipped:
        dependent = skipped.pop()
        if dependent.state == "waiting":
            dependent.error = f"needs {job.kind} {job.id[:12]}, which {state}"
            set_job(session, dependent, "skipped", now)
            skipped += dependents(session, dependent.id, "waiting")


def revive(session: Session, jobs: Sequence[t.Job], now: float) -> None:
    """failed | quarantined → ready, what was skipped for them → waiting: a study lists them anew, or goes on."""
    for job in jobs:
        if job.state in ("failed", "quarantined"):
            job.charges, job.charged, job.losses, job.ooms, job.memory_needed = 0, None, 0, 0, 0
            job.error, job.ended_at = None, None
            _drop_collected(session, job)
            set_job(session, job, "ready", now)
            _unskip(session, job.id, now)


def _drop_collected(session: Session, job: t.Job) -> None:
    """Checkpoints of a job that was given up may be gone."""
    both = ((job.checkpoint, job.position), (job.checkpoint_prev, job.position_prev))
    kept = [(sha, position) for sha, position in both if sha and _whole(session, sha)]
    newest, older = [*kept, (None, 0), (None, 0)][:2]
    (job.checkpoint, job.position), (job.checkpoint_prev, job.position_prev) = newest, older


def _whole(session: Session, sha: str) -> bool:
    artifact = session.get(t.Artifact, sha)
    return artifact is not None and artifact.state == "whole"


def _unskip(session: Session, job_id: str, now: float) -> None:
    back = dependents(session, job_id, "skipped")
    while back:
        dependent = back.pop()
        if dependent.state == "skipped" and not _dead_needs(session, dependent.id):
            dependent.error, dependent.ended_at = None, None
            set_job(session, dependent, "waiting", now)
            back += dependents(session, dependent.id, "skipped")


def wake_dependents(session: Session, job_id: str, now: float) -> None:
    """waiting → ready where all needs are done; skipped → waiting, and so on down, after a late result."""
    _unskip(session, job_id, now)
    for dependent in dependents(session, job_id, "waiting"):
        if needs_done(session, dependent.id):
            set_job(session, dependent, "ready", now)


def bump_control(session: Session) -> None:
    """Workers look again at what is desired of their attempts."""
    session.connection().execute(update(t.Worker).values(control_rev=t.Worker.control_rev + 1))
