"""The worker protocol: join, hello, heartbeat, control, claim, result, end."""

import time
import uuid
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from sqlmodel import Session
from starlette.concurrency import run_in_threadpool

from api import brokerusers
from api.auth import INVITED, WORKER, Bearer, find_worker, holder
from api.context import Context, Ctx
from jsm_queue import broker, lifecycle, protocol
from jsm_queue.errors import AuthError, ConflictError
from jsm_queue.kinds import ROLE_FILES
from jsm_queue.store import access, queries
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from jsm_queue.store.tokens import find_token, new_secret, token_hash

router = APIRouter(tags=["worker protocol"])

Revision = Annotated[int, Query(ge=-1, le=protocol.LARGEST)]

LONG_POLL_S = 25.0
LOOK_S = 0.5  # between two looks of a long poll: what another api was asked reaches a worker within this


@router.post("/workers/join", status_code=201, dependencies=[Depends(INVITED)])
def join(ctx: Ctx, token: Bearer, request: protocol.JoinRequest) -> protocol.JoinReply:
    """A machine joins with an invite, once, and has a token of its own. Asked again with that token, it is the same."""
    secret = request.token or new_secret()
    with writing(ctx.engine) as session:
        known = holder(session, secret)
        worker_id = known.id if known else _join(session, token, request.name, secret, ctx.now())
    place, queue = brokerusers.place(ctx.settings), broker.queue_name(worker_id)
    return protocol.JoinReply(worker=worker_id, token=secret, broker_url=place, queue=queue)


def _join(session: Session, token: str, name: str, secret: str, now: float) -> str:
    """The new worker's id. Raises AuthError where `token` is no invite that is still good."""
    invite = find_token(session, token, "invite", now)
    if invite is None:
        raise AuthError("The invite is unknown, used or expired", "`jsm worker invite` makes a new one")
    worker_id = uuid.uuid4().hex
    lifecycle.join(session, invite, worker_id, name, token_hash(secret), now)
    return worker_id


@router.get("/worker/broker", dependencies=[Depends(WORKER)])
def show_broker(ctx: Ctx, token: Bearer) -> protocol.BrokerReply:
    """As an older worker asks, which has no password of its own at the broker."""
    with reading(ctx.engine) as session:
        return brokerusers.shared_reply(ctx, session, find_worker(session, token).id)


@router.post("/worker/broker", dependencies=[Depends(WORKER)])
def provide_broker(ctx: Ctx, token: Bearer, request: protocol.BrokerRequest) -> protocol.BrokerReply:
    """Where the worker's messages come from; asked at every start. It chose a password: its user is made for it."""
    with writing(ctx.engine) as session:
        worker = find_worker(session, token)
        worker.broker_secret_hash = request.secret_hash
        worker_id = worker.id
    return brokerusers.reply(ctx, worker_id)


@router.post("/worker/hello", dependencies=[Depends(WORKER)])
def hello(ctx: Ctx, token: Bearer, request: protocol.HelloRequest) -> protocol.HelloReply:
    """A session begins; the old one of this worker ends."""
    with writing(ctx.engine) as session:
        drop = lifecycle.hello(session, find_worker(session, token), request, ctx.settings.lease_s, ctx.now())
    ctx.wake.set()
    return protocol.HelloReply(drop=drop, lease_s=ctx.settings.lease_s, heartbeat_s=ctx.settings.heartbeat_s)


@router.post("/worker/heartbeat", dependencies=[Depends(WORKER)])
def heartbeat(ctx: Ctx, token: Bearer, request: protocol.HeartbeatRequest) -> protocol.HeartbeatReply:
    """The session lives: its slots and attempts."""
    with writing(ctx.engine) as session:
        worker = find_worker(session, token)
        freed = lifecycle.heartbeat(session, worker, request, ctx.settings.lease_s, ctx.now())
        reply = protocol.HeartbeatReply(
            control_rev=worker.control_rev, unclaimed=queries.unclaimed_in_a_row(session, worker)
        )
    if freed:
        ctx.wake.set()
    return reply


@router.post("/worker/leave", dependencies=[Depends(WORKER)], status_code=204)
def leave(ctx: Ctx, token: Bearer, request: protocol.LeaveRequest) -> None:
    """The session is over, and its lease: nobody waits for this worker."""
    with writing(ctx.engine) as session:
        lifecycle.leave(session, find_worker(session, token), request.boot_id, ctx.now())
    ctx.wake.set()


@router.get("/worker/control", dependencies=[Depends(WORKER)])
async def control(ctx: Ctx, token: Bearer, boot_id: protocol.Id, rev: Revision) -> protocol.ControlReply:
    """Long poll: what is desired of each of the worker's attempts, once the revision is another than `rev`."""
    deadline = time.monotonic() + LONG_POLL_S
    while True:
        reply = await run_in_threadpool(_desired, ctx, token, boot_id)
        if reply.control_rev != rev or time.monotonic() > deadline or ctx.stop.is_set():
            return reply
        await ctx.news.wait(LOOK_S)


def _desired(ctx: Ctx, token: str, boot_id: str) -> protocol.ControlReply:
    with reading(ctx.engine) as session:
        worker = find_worker(session, token)
        lifecycle.check_session(worker, boot_id)
        desired = queries.desired(session, worker.id)
        wish = {"active": "run", "paused": "pause"}.get(worker.state, "drain")
        return protocol.ControlReply.model_validate(
            {"control_rev": worker.control_rev, "desired": desired, "worker": wish}
        )


@router.post("/runs/{run_id}/claim", dependencies=[Depends(WORKER)])
def claim(ctx: Ctx, token: Bearer, run_id: protocol.Id, request: protocol.ClaimRequest) -> protocol.ClaimReply:
    """Start what a message rang for. 409 drops that message alone."""
    with writing(ctx.engine) as session:
        run, attempts = lifecycle.claim(session, run_id, find_worker(session, token), request, ctx.now())
    with reading(ctx.engine) as session:
        grants = [_grant(session, attempt) for attempt in attempts]
    return protocol.ClaimReply(slot=run.slot, attempts=grants)


def _grant(session: Session, attempt: t.Attempt) -> protocol.Grant:
    job = session.get_one(t.Job, attempt.job)
    needed = [
        protocol.InputFile(folder=need, name=ROLE_FILES[role], sha=sha, size=size)
        for need, role, sha, size in queries.input_files(session, job)
    ]
    leaves = access.leaves(job.params)
    sizes = queries.sizes(session, [sha for _, _, sha in leaves])
    given = [protocol.InputFile(folder=folder, name=name, sha=sha, size=sizes[sha]) for folder, name, sha in leaves]
    return protocol.Grant(
        attempt=attempt.id,
        job=job.id,
        kind=job.kind,
        params=job.params,
        inputs=needed + given,
        ooms=job.ooms,
        charges=job.charges,
        checkpoint=_checkpoint(session, job),
    )


def _checkpoint(session: Session, job: t.Job) -> protocol.CheckpointFile | None:
    if job.checkpoint is None:
        return None
    artifact = session.get_one(t.Artifact, job.checkpoint)
    return protocol.CheckpointFile(sha=artifact.sha, size=artifact.size, position=job.position)


@router.post("/attempts/{attempt_id}/checkpoint", status_code=204, dependencies=[Depends(WORKER)])
def checkpoint(ctx: Ctx, token: Bearer, attempt_id: protocol.Id, request: protocol.CheckpointRequest) -> None:
    """A file from which a later attempt can go on; it was uploaded before."""
    with writing(ctx.engine) as session:
        worker = find_worker(session, token)
        _require_own(session, worker, [request.sha])
        older = _checkpoints(session, attempt_id)
        lifecycle.checkpoint(session, attempt_id, worker.id, request, ctx.now())
        unneeded = older - _checkpoints(session, attempt_id)
    _discard(ctx, unneeded)


def _require_own(session: Session, worker: t.Worker, shas: list[str]) -> None:
    """A result names what its worker sent or was given: else it could name a file of another job, and read it in the
    next one. Raises ConflictError.
    """
    if missing := access.not_had(session, worker.id, shas):
        raise ConflictError(f"Artifact {missing[0]} was not uploaded by this worker", "Upload it, then send this again")


def _checkpoints(session: Session, attempt_id: str) -> set[str]:
    """Those of the attempt's job."""
    attempt = session.get(t.Attempt, attempt_id)
    job = session.get(t.Job, attempt.job) if attempt else None
    return {sha for sha in (job.checkpoint, job.checkpoint_prev) if sha} if job else set()


def _discard(ctx: Context, checkpoints: set[str]) -> None:
    """One comes every few minutes, as large as the optimizer's state: they do not lie here until somebody collects."""
    for sha in checkpoints:
        ctx.uploads.discard(sha, ctx.now())


@router.post("/attempts/{attempt_id}/result", dependencies=[Depends(WORKER)])
def result(ctx: Ctx, token: Bearer, attempt_id: protocol.Id, request: protocol.ResultRequest) -> protocol.ResultReply:
    """The whole result of an attempt; its artifacts were uploaded before."""
    with writing(ctx.engine) as session:
        worker = find_worker(session, token)
        _require_own(session, worker, [artifact.sha for artifact in request.artifacts])
        accepted = lifecycle.accept(session, attempt_id, worker.id, request, ctx.now())
        unneeded = _checkpoints(session, attempt_id) if accepted else set()
    ctx.wake.set()
    _discard(ctx, unneeded)
    return protocol.ResultReply(accepted=True)


@router.post("/attempts/{attempt_id}/end", status_code=204, dependencies=[Depends(WORKER)])
def end(ctx: Ctx, token: Bearer, attempt_id: protocol.Id, request: protocol.EndRequest) -> None:
    """The attempt ended without a result."""
    with writing(ctx.engine) as session:
        lifecycle.end(session, attempt_id, find_worker(session, token).id, request, ctx.now())
    ctx.wake.set()
