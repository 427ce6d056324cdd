"""Pages of a study's jobs, as people read them."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Row
from sqlmodel import Session, col, select

from jsm_queue.store import queries
from jsm_queue.store import tables as t


def job_rows(
    session: Session, study: str, state: str | None = None, after: str = "", limit: int = 1000
) -> list[dict[str, Any]]:
    """A page of a study's jobs, one row a job (its first listing), with its latest attempt, in the order of ids.

    `ended`: how the last attempt that ended did, None of a job that is done or was never tried to an end. `wanted_by`:
    the name of another study that lists the job and runs, None where there is none.
    """
    listed = col(t.StudyJob.job)
    page = select(t.StudyJob.job).where(t.StudyJob.study == study, listed > after).distinct()
    if state:
        page = page.join(t.Job, col(t.Job.id) == listed).where(t.Job.state == state)
    ids = session.exec(page.order_by(listed).limit(limit)).all()
    listings = _first_listings(session, study, ids)
    attempts = _latest_attempts(session, ids)
    ends = _last_ends(session, [job.id for job, _ in listings if job.state != "done"])
    wanted = _wanted_by(session, study, ids)
    return [
        _job_row(job, reused, attempts.get(job.id), ends.get(job.id)) | {"wanted_by": wanted.get(job.id)}
        for job, reused in listings
    ]


def _wanted_by(session: Session, study: str, jobs: Sequence[str]) -> dict[str, str]:
    listing = t.StudyJob
    query = select(listing.job, t.Study.name).join(t.Study, col(t.Study.id) == col(listing.study))
    others = query.where(t.Study.state == "running", t.Study.id != study, col(listing.job).in_(jobs))
    return dict(session.exec(others.distinct().order_by(col(t.Study.name).desc())).all())


def _first_listings(session: Session, study: str, jobs: Sequence[str]) -> list[tuple[Row[Any], bool]]:
    """Each job's id, kind, state and error with stage and cell of its first listing, in the order of stages; and
    whether any of its listings is `reused`. In the order of ids.
    """
    listing = t.StudyJob
    query = (
        select(  # type: ignore[call-overload]
            t.Job.id, t.Job.kind, t.Job.state, t.Job.error, listing.stage, listing.cell, listing.reused
        )
        .join(listing, col(listing.job) == col(t.Job.id))
        .where(listing.study == study, col(t.Job.id).in_(jobs))
        .order_by(t.Job.id, queries.stage_order(), col(listing.cell))
    )
    grouped = [list(rows) for _, rows in groupby(session.exec(query), lambda row: row.id)]
    return [(rows[0], any(row.reused for row in rows)) for rows in grouped]


def _job_row(
    job: Row[Any], reused: bool, attempt: Row[Any] | None, ended: dict[str, str | None] | None
) -> dict[str, Any]:
    started = attempt.started_at if attempt else None
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "stage": job.stage,
        "cell": job.cell,
        "label": queries.label(job.kind, job.cell),
        "reused": reused,
        "error": job.error,
        "ended": ended,
        "worker": attempt.worker if attempt else None,
        "position": attempt.position if attempt else 0,
        "total": attempt.total if attempt else 0,
        "metrics": (attempt.metrics or {}) if attempt else {},
        "paused": attempt.paused if attempt and job.state == "active" else None,
        "seconds": attempt.ended_at - started if attempt and attempt.ended_at and started else None,
    }


def _latest_attempts(session: Session, jobs: Sequence[str]) -> dict[str, Row[Any]]:
    """Job id → (job, worker, position, total, metrics, paused, started_at, ended_at) of its latest attempt."""
    a = t.Attempt
    query = (
        select(a.job, a.worker, a.position, a.total, a.metrics, a.paused, a.started_at, a.ended_at)  # type: ignore[call-overload]
        .where(col(a.job).in_(jobs))
        .order_by(col(a.offered_at))
    )
    return {attempt.job: attempt for attempt in session.exec(query)}


def _last_ends(session: Session, jobs: list[str]) -> dict[str, dict[str, str | None]]:
    """Job id → reason and message of the attempt that ended last without a result."""
    query = (
        select(t.Attempt.job, t.Attempt.reason, t.Attempt.message)
        .where(col(t.Attempt.job).in_(jobs), t.Attempt.state == "ended")
        .order_by(col(t.Attempt.ended_at))
    )
    return {job: {"reason": reason, "message": message} for job, reason, message in session.exec(query)}
