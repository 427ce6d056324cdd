"""Who is asking, and may they: `Authorization: Bearer …` is a token of a person, of a worker, or an invite.

Each route names the scopes that open it: `dependencies=[Depends(READ)]`, or where it wants to know who
`sender: Annotated[Caller, Depends(SENDER)]`. `tests/security/test_scopes.py` lists the routes that need none.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlmodel import Session, select

from api.context import Ctx
from jsm_queue.errors import AuthError, ForbiddenError
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from jsm_queue.store.tokens import ALLOWS, token_hash, valid_token

PEOPLE = frozenset({"admin", "submit", "read"})


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


@dataclass(frozen=True)
class Caller:
    """Who is asking. `worker`: its id, None for a person; `scope`: the token's."""

    scope: str
    worker: str | None = None


class Needs:
    """A dependency: the token opens one of `scopes`. Gives the Caller; raises AuthError and ForbiddenError."""

    def __init__(self, *scopes: str) -> None:
        self.scopes = frozenset(scopes)

    def __call__(self, ctx: Ctx, token: Bearer) -> Caller:
        """Looked up at every request: a token that is revoked is good for nothing at once."""
        with reading(ctx.engine) as session:
            caller = identify(session, token, ctx.now())
        if caller is not None and self.scopes & ALLOWS.get(caller.scope, {caller.scope}):
            return caller
        if self.scopes == {"worker"}:
            raise no_worker() if caller is None or caller.scope not in PEOPLE else no_person()
        if caller is None or caller.scope not in PEOPLE:
            raise AuthError(
                "The token is not valid", "Use the one in the home folder's admin.token, or ask for a new one"
            )
        wanted = min(self.scopes & PEOPLE, key=lambda scope: len(ALLOWS[scope]), default="admin")
        raise ForbiddenError(f"A token of scope {caller.scope} may not do this: it needs scope {wanted}")


READ = Needs("read")
SUBMIT = Needs("submit")
ADMIN = Needs("admin")
WORKER = Needs("worker")
SENDER = Needs("submit", "worker")
READER = Needs("read", "worker")
JOINING = Needs("invite", "worker")


class Joins:
    """A dependency that only says so: POST /v1/workers/join looks at the invite itself, in the transaction that uses it
    up. Who asks again with the token that it chose needs none that is still good.
    """

    scopes = frozenset({"invite"})

    def __call__(self, token: Bearer) -> None:
        """Some token is there. Raises AuthError."""


INVITED = Joins()


def no_worker() -> AuthError:
    """What a worker is told whose token is unknown, or who was removed."""
    return AuthError(
        "This pool has no worker with this token: it was removed, or joined another",
        "To join again start it with a new invite: `jsm worker invite` makes one",
    )


def no_person() -> AuthError:
    """What people are told who ask as a worker does."""
    return AuthError("This is for workers, and the token is a person's", "`jsm worker invite` lets a machine join")


def identify(session: Session, token: str, now: float) -> Caller | None:
    """Whose token this is, if anybody's."""
    row = valid_token(session, token, now)
    if row is not None:
        return Caller(row.scope)
    worker = holder(session, token)
    return Caller("worker", worker.id) if worker else None


def find_worker(session: Session, token: str) -> t.Worker:
    """The worker that holds the token. Raises AuthError."""
    worker = holder(session, token)
    if worker is None:
        raise no_worker()
    return worker


def holder(session: Session, token: str) -> t.Worker | None:
    """The worker that holds the token, if there is one. A removed worker's is good for nothing."""
    held = select(t.Worker).where(t.Worker.token_hash == token_hash(token), t.Worker.state != "removed")
    return session.exec(held).first()
