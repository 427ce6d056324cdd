"""Paths for people: the pool's workers."""

from typing import Any

from fastapi import APIRouter, Depends
from sqlmodel import select

from api.auth import require_admin
from api.context import Ctx
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from jsm_queue.store.tokens import create_token

router = APIRouter(tags=["workers"], dependencies=[Depends(require_admin)])


@router.get("/workers")
def list_workers(ctx: Ctx) -> dict[str, Any]:
    """The workers, whether their lease holds, and their slots."""
    with reading(ctx.engine) as session:
        workers = session.exec(select(t.Worker).order_by(t.Worker.name, t.Worker.id)).all()
        slots = session.exec(select(t.Slot).order_by(t.Slot.worker, t.Slot.idx)).all()  # type: ignore[arg-type]
    now = ctx.now()
    return {
        "workers": [
            {
                "id": worker.id,
                "name": worker.name,
                "live": worker.lease_until > now,
                "hardware": worker.hardware,
                "slots": [slot.model_dump(exclude={"worker"}) for slot in slots if slot.worker == worker.id],
            }
            for worker in workers
        ]
    }


@router.post("/workers/invites", status_code=201)
def invite(ctx: Ctx) -> dict[str, str]:
    """A token with which one worker can join, within an hour."""
    return {"invite": create_token(ctx.engine, "invite")}
