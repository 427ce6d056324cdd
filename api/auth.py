"""Who is asking: an admin's token, an invite, or a worker's token, as `Authorization: Bearer …`."""

from typing import Annotated

from fastapi import Depends, Request
from sqlmodel import Session, select

from api.context import Ctx
from jsm_queue.errors import AuthError
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from jsm_queue.store.tokens import find_token, token_hash


def bearer(request: Request) -> str:
    """The token of the request. Raises AuthError."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise AuthError(
            "This needs a token",
            "Send `Authorization: Bearer TOKEN`; the CLI takes it from JSM_TOKEN or the home folder",
        )
    return token


Bearer = Annotated[str, Depends(bearer)]


def require_admin(ctx: Ctx, token: Bearer) -> None:
    """Raises AuthError unless the token is an admin's."""
    with reading(ctx.engine) as session:
        if find_token(session, token, "admin", ctx.now()) is None:
            raise AuthError(
                "The token is not valid", "Use the one in the home folder's admin.token, or ask for a new one"
            )


def find_worker(session: Session, token: str) -> t.Worker:
    """The worker that holds the token. Raises AuthError."""
    worker = holder(session, token)
    if worker is None:
        raise AuthError("No worker has this token", "Remove the worker's identity.json and join with a new invite")
    return worker


def holder(session: Session, token: str) -> t.Worker | None:
    """The worker that holds the token, if there is one."""
    held = select(t.Worker).where(t.Worker.token_hash == token_hash(token), t.Worker.state != "removed")
    return session.exec(held).first()


def require_admin_or_worker(ctx: Ctx, token: Bearer) -> None:
    """Raises AuthError unless the token is an admin's or a worker's."""
    with reading(ctx.engine) as session:
        if find_token(session, token, "admin", ctx.now()) is None:
            find_worker(session, token)
