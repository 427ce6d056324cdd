"""Paths for people: one job and what was tried for it."""

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from api.auth import require_admin
from api.context import Ctx
from jsm_queue.store import queries
from jsm_queue.store.database import reading

router = APIRouter(tags=["jobs"], dependencies=[Depends(require_admin)])


class AttemptDetail(BaseModel):
    """One try. `worker` is its worker's name; `reason`, `message` and `log_tail` say how it ended, if it did so badly.

    Times in seconds since the epoch.
    """

    id: str
    worker: str
    state: str
    reason: str | None
    message: str | None
    log_tail: str | None
    offered_at: float
    started_at: float | None
    ended_at: float | None


class JobDetail(BaseModel):
    """One job and its attempts, the oldest first. `error`: why it is given up. Times in seconds since the epoch."""

    id: str
    kind: str
    state: str
    error: str | None
    created_at: float
    ended_at: float | None
    attempts: list[AttemptDetail]


@router.get("/jobs/{job_id}")
def show_job(ctx: Ctx, job_id: str) -> JobDetail:
    """A job by its id or a unique prefix of it, with all its attempts."""
    with reading(ctx.engine) as session:
        job = queries.find_job(session, job_id)
        attempts = [
            AttemptDetail.model_validate(attempt.model_dump() | {"worker": name})
            for attempt, name in queries.attempts(session, job.id)
        ]
        return JobDetail.model_validate(job.model_dump() | {"attempts": attempts})
