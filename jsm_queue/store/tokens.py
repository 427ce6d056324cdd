"""Tokens: random, told once, kept only as a hash. Workers' tokens are in the `worker` table.

scope   what it may do
admin   everything that people can: also invite, remove and pause workers, make and revoke tokens, collect files
submit  submit, cancel, pause, resume and retry studies, upload their files; and read
read    look at studies, jobs, logs, reports, workers; download artifacts
invite  one worker may join with it, once
"""

import hashlib
import secrets
import time
from typing import Literal

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from jsm_queue.errors import ConflictError, NotFoundError
from jsm_queue.store.database import writing
from jsm_queue.store.tables import Token

Scope = Literal["admin", "submit", "read"]
ALLOWS: dict[str, frozenset[str]] = {
    "admin": frozenset({"admin", "submit", "read"}),
    "submit": frozenset({"submit", "read"}),
    "read": frozenset({"read"}),
    "invite": frozenset({"invite"}),
}
"""Scope of a token → what routes it opens."""

INVITE_S = 3600.0  # an invite is good for one worker, for this long
DAY_S = 86_400.0
SHOWN = 12  # digits of a token's hash by which people name it
PREFIX = 6  # digits of it that are enough


def token_hash(token: str) -> str:
    """sha256 of a token. The tokens are random with 256 bits, so a slow hash would add nothing."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_secret() -> str:
    """A random token with 256 bits, URL-safe."""
    return secrets.token_urlsafe(32)


def create_token(
    engine: Engine, scope: Literal["admin", "submit", "read", "invite"], name: str = "", days: float | None = None
) -> str:
    """A new token, told this once. It expires after `days`, an invite after an hour and when a worker joined with it.

    Raises ConflictError where a token of that name is in use.
    """
    token, now = new_secret(), time.time()
    expires = now + INVITE_S if scope == "invite" else now + days * DAY_S if days else None
    with writing(engine) as session:
        if name and any(row.name == name and is_valid(row, now) for row in session.exec(select(Token))):
            raise ConflictError(f"A token is called {name!r} already", "Choose another name, or revoke that one first")
        session.add(Token(hash=token_hash(token), scope=scope, name=name, created_at=now, expires_at=expires))
    return token


def is_valid(row: Token, now: float) -> bool:
    """Neither used up, nor revoked, nor expired."""
    return row.used_at is None and row.revoked_at is None and (row.expires_at is None or row.expires_at > now)


def valid_token(session: Session, token: str, now: float) -> Token | None:
    """The valid token of any scope, or None.

    Found by the hash of what was sent, so that how long it takes tells nothing about the tokens there are: nobody can
    choose what a hash begins with.
    """
    row = session.get(Token, token_hash(token))
    return row if row is not None and is_valid(row, now) else None


def find_token(session: Session, token: str, scope: str, now: float) -> Token | None:
    """The valid token of exactly that scope, or None."""
    row = valid_token(session, token, now)
    return row if row is not None and row.scope == scope else None


def list_tokens(session: Session, now: float) -> list[Token]:
    """The tokens that people made, the oldest first, also those revoked or expired; of invites the valid ones."""
    rows = session.exec(select(Token).order_by(col(Token.created_at), Token.hash))
    return [row for row in rows if row.scope != "invite" or is_valid(row, now)]


def revoke_token(session: Session, named: str, now: float) -> Token:
    """The valid token of that name, or whose hash begins so, is good for nothing from this transaction's end on.

    Raises NotFoundError.
    """
    valid = [row for row in session.exec(select(Token)) if is_valid(row, now)]
    found = [row for row in valid if row.name and row.name == named]
    if not found and len(named) >= PREFIX:
        found = [row for row in valid if row.hash.startswith(named)]
    if len(found) != 1:
        raise NotFoundError(f"{'No' if not found else 'More than one'} token {named!r}", "`jsm token list` shows them")
    found[0].revoked_at = now
    session.add(found[0])
    return found[0]
