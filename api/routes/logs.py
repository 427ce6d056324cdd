"""The log of an attempt: its worker sends it while it runs, `jsm logs` reads it."""

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel
from sqlmodel import Session
from starlette.concurrency import run_in_threadpool

from api import attemptlogs
from api.auth import READ, WORKER, Bearer, find_worker
from api.context import Context, Ctx
from jsm_queue import protocol
from jsm_queue.errors import ConflictError, NotFoundError
from jsm_queue.planner import TERMINAL
from jsm_queue.store import queries
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading

router = APIRouter(tags=["logs"])

LONGEST_WAIT_S = 25.0
LOOK_S = 0.5  # between two looks of a long poll
REPLACED = ("lost", "superseded", "unclaimed")
"""How an attempt ends that is not its worker's any more."""


class LogPiece(BaseModel):
    """A piece of an attempt's log. `text` begins at byte `offset`, the next piece at `next`.

    `attempt` is None before the job's first one. `live`: the attempt runs, so more may come; `state`, `reason` and
    `message` say how it is or how it ended. `over`: the job is done or given up.
    """

    job: str
    attempt: str | None
    worker: str | None = None
    state: str | None = None
    reason: str | None = None
    message: str | None = None
    live: bool = False
    over: bool
    offset: int
    next: int
    text: str = ""


@router.post("/attempts/{attempt_id}/log", dependencies=[Depends(WORKER)])
def add_log(ctx: Ctx, token: Bearer, attempt_id: protocol.Id, request: protocol.LogRequest) -> protocol.LogSize:
    """What an attempt's log says from a byte on, from its worker alone. The same text twice changes nothing.

    409: the attempt was replaced, or this log is not taken any further.
    """
    with reading(ctx.engine) as session:
        worker, attempt = find_worker(session, token), session.get(t.Attempt, attempt_id)
        if attempt is None or attempt.worker != worker.id or attempt.reason in REPLACED:
            raise ConflictError(f"Attempt {attempt_id} is not this worker's", "Send its log no further")
    return protocol.LogSize(size=attemptlogs.append(ctx.settings.home, attempt_id, request.offset, request.text))


@router.get("/jobs/{job_id}/log", dependencies=[Depends(READ)])
async def show_log(
    ctx: Ctx,
    job_id: str,
    attempt: str | None = None,
    offset: Annotated[int, Query(ge=0, le=attemptlogs.LIMIT)] = 0,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S)] = 0,
) -> LogPiece:
    """The log of a job's newest attempt, or of `attempt`, from byte `offset` on. Where nothing is new it waits up to
    `wait` seconds for more, or for the attempt's end.
    """
    deadline = time.monotonic() + wait
    while True:
        piece = await run_in_threadpool(_piece, ctx, job_id, attempt, offset)
        if piece.text or not piece.live or time.monotonic() >= deadline or ctx.stop.is_set():
            return piece
        await asyncio.sleep(LOOK_S)


def _piece(ctx: Context, job_id: str, attempt_id: str | None, offset: int) -> LogPiece:
    with reading(ctx.engine) as session:
        job = queries.find_job(session, job_id)
        found = _attempt(session, job.id, attempt_id)
    over = job.state in TERMINAL
    if found is None:
        return LogPiece(job=job.id, attempt=None, over=over, offset=offset, next=offset)
    attempt, worker = found
    text, end = attemptlogs.read(ctx.settings.home, attempt.id, offset) or _tail(attempt, offset)
    return LogPiece(
        job=job.id,
        attempt=attempt.id,
        worker=worker,
        state=attempt.state,
        reason=attempt.reason,
        message=attempt.message,
        live=attempt.state in t.LIVE,
        over=over,
        offset=offset,
        next=end,
        text=text,
    )


def _attempt(session: Session, job: str, attempt: str | None) -> tuple[t.Attempt, str] | None:
    """The job's newest attempt, or the one of that id or beginning of an id, with its worker's name."""
    found = queries.attempts(session, job)
    if attempt is None:
        return found[-1] if found else None
    named = [row for row in found if row[0].id.startswith(attempt)]
    if len(named) != 1:
        known = ", ".join(row[0].id[:12] for row in found) or "none"
        raise NotFoundError(f"Job {job[:12]} has no attempt {attempt!r}", f"Its attempts are {known}")
    return named[0]


def _tail(attempt: t.Attempt, offset: int) -> tuple[str, int]:
    """The last lines, which come with a bad end, of an attempt whose worker sent no log."""
    text = (attempt.log_tail or "").encode()[offset:].decode("utf-8", errors="ignore")
    return text, offset + len(text.encode())
