"""The worker protocol: join, hello, heartbeat, control, claim, result, end."""

import asyncio
import time
import uuid

from fastapi import APIRouter
from sqlmodel import Session
from starlette.concurrency import run_in_threadpool

from api.auth import Bearer, find_worker, holder
from api.context import Ctx
from jsm_queue import broker, lifecycle, protocol
from jsm_queue.errors import AuthError
from jsm_queue.kinds import ROLE_FILES
from jsm_queue.store import queries
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from jsm_queue.store.tokens import find_token, new_secret, token_hash

router = APIRouter(tags=["worker protocol"])

LONG_POLL_S = 25.0
LOOK_S = 0.5  # between two looks of a long poll; a stop reaches its worker within this and one request


@router.post("/workers/join", status_code=201)
def join(ctx: Ctx, token: Bearer, request: protocol.JoinRequest) -> protocol.JoinReply:
    """A machine joins with an invite, once, and has a token of its own. Asked again with that token, it is the same."""
    secret = request.token or new_secret()
    with writing(ctx.engine) as session:
        known = holder(session, secret)
        worker_id = known.id if known else _join(session, token, request.name, secret, ctx.now())
    return protocol.JoinReply(worker=worker_id, token=secret, **_broker(ctx, worker_id).model_dump())


def _join(session: Session, token: str, name: str, secret: str, now: float) -> str:
    """The new worker's id. Raises AuthError where `token` is no invite that is still good."""
    invite = find_token(session, token, "invite", now)
    if invite is None:
        raise AuthError("The invite is unknown, used or expired", "`jsm worker invite` makes a new one")
    worker_id = uuid.uuid4().hex
    lifecycle.join(session, invite, worker_id, name, token_hash(secret), now)
    return worker_id


@router.get("/worker/broker")
def show_broker(ctx: Ctx, token: Bearer) -> protocol.BrokerReply:
    """Where the worker's messages come from; asked at every start."""
    with reading(ctx.engine) as session:
        return _broker(ctx, find_worker(session, token).id)


def _broker(ctx: Ctx, worker_id: str) -> protocol.BrokerReply:
    return protocol.BrokerReply(broker_url=ctx.settings.broker_url or "", queue=broker.queue_name(worker_id))


@router.post("/worker/hello")
def hello(ctx: Ctx, token: Bearer, request: protocol.HelloRequest) -> protocol.HelloReply:
    """A session begins; the old one of this worker ends."""
    with writing(ctx.engine) as session:
        drop = lifecycle.hello(session, find_worker(session, token), request, ctx.settings.lease_s, ctx.now())
    ctx.wake.set()
    return protocol.HelloReply(drop=drop, lease_s=ctx.settings.lease_s, heartbeat_s=ctx.settings.heartbeat_s)


@router.post("/worker/heartbeat")
def heartbeat(ctx: Ctx, token: Bearer, request: protocol.HeartbeatRequest) -> protocol.HeartbeatReply:
    """The session lives: its slots and attempts."""
    with writing(ctx.engine) as session:
        worker = find_worker(session, token)
        freed = lifecycle.heartbeat(session, worker, request, ctx.settings.lease_s, ctx.now())
        revision = worker.control_rev
    if freed:
        ctx.wake.set()
    return protocol.HeartbeatReply(control_rev=revision)


@router.get("/worker/control")
async def control(ctx: Ctx, token: Bearer, boot_id: protocol.Id, rev: int) -> protocol.ControlReply:
    """Long poll: what is desired of each of the worker's attempts, once the revision is another than `rev`."""
    deadline = time.monotonic() + LONG_POLL_S
    while True:
        reply = await run_in_threadpool(_desired, ctx, token, boot_id)
        if reply.control_rev != rev or time.monotonic() > deadline or ctx.stop.is_set():
            return reply
        await asyncio.sleep(LOOK_S)


def _desired(ctx: Ctx, token: str, boot_id: str) -> protocol.ControlReply:
    with reading(ctx.engine) as session:
        worker = find_worker(session, token)
        lifecycle.check_session(worker, boot_id)
        desired = queries.desired(session, worker.id)
        wish = {"active": "run", "paused": "pause"}.get(worker.state, "drain")
        return protocol.ControlReply.model_validate(
            {"control_rev": worker.control_rev, "desired": desired, "worker": wish}
        )


@router.post("/runs/{run_id}/claim")
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
    leaves = _leaves(job.params)
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


def _leaves(params: dict[str, object]) -> list[tuple[str, str, str]]:
    """(folder, file name, sha) of the submitter's files that a job's params name."""
    found = []
    for folder in ("source", "bench"):
        ref = params.get(folder)
        if isinstance(ref, dict):
            found.append((folder, folder + ref["suffix"], ref["sha"]))
    judge = params.get("judge_file")
    if isinstance(judge, dict):
        found.append(("judge", "judge" + judge["suffix"], judge["sha"]))
    base = params.get("base")
    if isinstance(base, dict):
        found += [("base", name, sha) for name, sha in base["files"].items()]
        # Where a trained adapter would lie, so kinds need not know which it is.
        found += [("adapter", name, sha) for name, sha in base.get("adapter", {}).items()]
    return found


@router.post("/attempts/{attempt_id}/checkpoint", status_code=204)
def checkpoint(ctx: Ctx, token: Bearer, attempt_id: protocol.Id, request: protocol.CheckpointRequest) -> None:
    """A file from which a later attempt can go on; it was uploaded before."""
    with writing(ctx.engine) as session:
        lifecycle.checkpoint(session, attempt_id, find_worker(session, token).id, request, ctx.now())


@router.post("/attempts/{attempt_id}/result")
def result(ctx: Ctx, token: Bearer, attempt_id: protocol.Id, request: protocol.ResultRequest) -> protocol.ResultReply:
    """The whole result of an attempt; its artifacts were uploaded before."""
    with writing(ctx.engine) as session:
        worker = find_worker(session, token)
        lifecycle.accept(session, attempt_id, worker.id, request, ctx.now())
    ctx.wake.set()
    return protocol.ResultReply(accepted=True)


@router.post("/attempts/{attempt_id}/end", status_code=204)
def end(ctx: Ctx, token: Bearer, attempt_id: protocol.Id, request: protocol.EndRequest) -> None:
    """The attempt ended without a result."""
    with writing(ctx.engine) as session:
        lifecycle.end(session, attempt_id, find_worker(session, token).id, request, ctx.now())
    ctx.wake.set()
