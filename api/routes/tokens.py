"""Paths for admins: tokens of people. A token is told once, when it is made."""

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field, StringConstraints

from api.auth import ADMIN
from api.context import Ctx
from jsm_queue.store import tables as t
from jsm_queue.store import tokens
from jsm_queue.store.database import reading, writing

router = APIRouter(tags=["tokens"], dependencies=[Depends(ADMIN)])
logger = logging.getLogger(__name__)


class TokenRequest(BaseModel):
    """What the new token may do, what people call it, and in how many days it expires, if it does."""

    scope: tokens.Scope
    name: Annotated[str, StringConstraints(pattern=r"^[\w][\w .@-]{0,63}$")]
    days: float | None = Field(default=None, gt=0, le=3650)


@router.post("/tokens", status_code=201)
def create(ctx: Ctx, request: TokenRequest) -> dict[str, Any]:
    """A new token. It is nowhere but in this answer."""
    token = tokens.create_token(ctx.engine, request.scope, request.name, request.days)
    logger.info("token %s of scope %s made", request.name, request.scope)
    return {"token": token, "id": tokens.token_hash(token)[: tokens.SHOWN], **request.model_dump()}


@router.get("/tokens")
def show(ctx: Ctx) -> dict[str, Any]:
    """All tokens that people made, and the invites that are still good: names and times, no secrets."""
    with reading(ctx.engine) as session:
        rows = tokens.list_tokens(session, ctx.now())
    return {"tokens": [_shown(row, ctx.now()) for row in rows]}


@router.delete("/tokens/{named}")
def revoke(ctx: Ctx, named: str) -> dict[str, Any]:
    """The token of that name, or whose id begins so, is good for nothing from now on."""
    with writing(ctx.engine) as session:
        row = tokens.revoke_token(session, named, ctx.now())
    logger.info("token %s of scope %s revoked", row.name or row.hash[: tokens.SHOWN], row.scope)
    return _shown(row, ctx.now())


def _shown(row: t.Token, now: float) -> dict[str, Any]:
    times = row.model_dump(include={"created_at", "expires_at", "revoked_at"})
    return {
        "id": row.hash[: tokens.SHOWN],
        "name": row.name,
        "scope": row.scope,
        "valid": tokens.is_valid(row, now),
        **times,
    }
