"""Paths for people: the pool's workers."""

from typing import Any

from fastapi import APIRouter, Depends
from sqlmodel import select

from api import brokerusers
from api.auth import ADMIN, READ
from api.context import Context, Ctx
from jsm_queue import lifecycle
from jsm_queue.assigning import DISK_PAUSE_S
from jsm_queue.store import queries
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from jsm_queue.store.tokens import create_token

router = APIRouter(tags=["workers"])


@router.get("/workers", dependencies=[Depends(READ)])
def list_workers(ctx: Ctx) -> dict[str, Any]:
    """The workers, whether their lease holds, and their slots. Removed ones are left out.

    `state`: active, paused or draining, as people want it. `away_since`: when the lease of one that is away ended, in
    seconds since the epoch; null for one that is live or was never heard of. `without_room`: how many ready
    jobs it does not get, as they filled its disk. A slot is `busy` where a job of the pool is at work or stands still.
    """
    now = ctx.now()
    with reading(ctx.engine) as session:
        here = select(t.Worker).where(t.Worker.state != "removed").order_by(t.Worker.name, t.Worker.id)
        workers = session.exec(here).all()
        slots = session.exec(select(t.Slot).order_by(t.Slot.worker, t.Slot.idx)).all()  # type: ignore[arg-type]
        busy, without_room = queries.busy_slots(session), queries.jobs_without_room(session, now - DISK_PAUSE_S)
    return {
        "workers": [
            {
                "id": worker.id,
                "name": worker.name,
                "state": worker.state,
                "live": worker.lease_until > now,
                "away_since": _away_since(worker, now),
                "disk_free": worker.disk_free,
                "without_room": without_room[worker.id],
                "hardware": worker.hardware,
                "slots": [
                    slot.model_dump(exclude={"worker"}) | {"busy": (worker.id, slot.idx) in busy}
                    for slot in slots
                    if slot.worker == worker.id
                ],
            }
            for worker in workers
        ]
    }


def _away_since(worker: t.Worker, now: float) -> float | None:
    return worker.lease_until if 0 < worker.lease_until <= now else None


@router.post("/workers/invites", status_code=201, dependencies=[Depends(ADMIN)])
def invite(ctx: Ctx) -> dict[str, str]:
    """A token with which one worker can join, within an hour."""
    return {"invite": create_token(ctx.engine, "invite")}


@router.post("/workers/{worker}/pause", dependencies=[Depends(ADMIN)])
def pause(ctx: Ctx, worker: str) -> dict[str, str]:
    """A worker, by its name or the beginning of its id, takes nothing new; what it runs stands still."""
    return _set_state(ctx, worker, "paused")


@router.post("/workers/{worker}/resume", dependencies=[Depends(ADMIN)])
def resume(ctx: Ctx, worker: str) -> dict[str, str]:
    """A paused or drained worker takes part again."""
    return _set_state(ctx, worker, "active")


@router.post("/workers/{worker}/drain", dependencies=[Depends(ADMIN)])
def drain(ctx: Ctx, worker: str) -> dict[str, str]:
    """A worker takes nothing new, and gives back what it runs: other workers go on with it."""
    return _set_state(ctx, worker, "draining")


@router.post("/workers/{worker}/remove", dependencies=[Depends(ADMIN)])
def remove(ctx: Ctx, worker: str) -> dict[str, str]:
    """A worker's token, its session and its user at the broker are good for nothing from now on."""
    gone = _set_state(ctx, worker, "removed")
    brokerusers.sync(ctx)
    return gone


def _set_state(ctx: Context, named: str, state: str) -> dict[str, str]:
    with writing(ctx.engine) as session:
        worker = queries.find_worker(session, named)
        lifecycle.set_worker_state(session, worker, state, ctx.now())
    ctx.wake.set()
    ctx.news.tell()
    return {"id": worker.id, "name": worker.name, "state": worker.state}
