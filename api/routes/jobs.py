"""Paths for people: one job and what was tried for it."""

from collections import Counter

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from api.auth import READ
from api.context import Ctx
from jsm_queue import assigning, waiting
from jsm_queue.costs import Sample
from jsm_queue.store import costs, queries
from jsm_queue.store.database import reading

router = APIRouter(tags=["jobs"], dependencies=[Depends(READ)])


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


@router.get("/jobs/{job_id}/why")
def explain_job(ctx: Ctx, job_id: str) -> waiting.Why:
    """In one sentence why a job waits, where it runs, or why it ended."""
    with reading(ctx.engine) as session:
        return waiting.why(session, queries.find_job(session, job_id), ctx.now())


class Speed(BaseModel):
    """A class of slots that are here: "gpu" or "cpu", what samples know it by, and how many there are."""

    kind: str
    hardware: str
    slots: int


class CostsReply(BaseModel):
    """What the pool has, and what its accepted attempts took: (kind, base, hardware, modelled and actual seconds,
    bytes).
    """

    speeds: list[Speed]
    samples: list[Sample]


@router.get("/costs")
def show_costs(ctx: Ctx) -> CostsReply:
    """What `jsm plan` estimates with."""
    with reading(ctx.engine) as session:
        counts = Counter(slot.speed for slot in assigning.open_slots(session, ctx.now()) if slot.speed)
        speeds = [Speed(kind=each.kind, hardware=each.name, slots=count) for each, count in counts.items()]
        return CostsReply(speeds=speeds, samples=costs.samples(session))
