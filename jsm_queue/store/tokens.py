"""Tokens: random, told once, kept only as a hash."""

import hashlib
import secrets
import time
from typing import Literal

from sqlalchemy import Engine
from sqlmodel import Session

from jsm_queue.store.database import writing
from jsm_queue.store.tables import Token

INVITE_S = 3600.0  # an invite is good for one worker, for this long


def token_hash(token: str) -> str:
    """sha256 of a token. The tokens are random with 256 bits, so a slow hash would add nothing."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_secret() -> str:
    """A random token with 256 bits, URL-safe."""
    return secrets.token_urlsafe(32)


def create_token(engine: Engine, scope: Literal["admin", "invite"]) -> str:
    """A new token. An invite expires after an hour and is used up by the first worker that joins with it."""
    token, now = new_secret(), time.time()
    expires = now + INVITE_S if scope == "invite" else None
    with writing(engine) as session:
        session.add(Token(hash=token_hash(token), scope=scope, created_at=now, expires_at=expires))
    return token


def find_token(session: Session, token: str, scope: str, now: float) -> Token | None:
    """The valid token of that scope, or None. The look-up is by hash, so its timing tells nothing about the token."""
    row = session.get(Token, token_hash(token))
    if row is None or row.scope != scope or row.used_at is not None:
        return None
    return row if row.expires_at is None or row.expires_at > now else None
