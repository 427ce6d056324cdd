"""Tokens: told once, kept as a hash, named by people, good for nothing once revoked."""

import time

import pytest
from sqlalchemy import Engine

from jsm_queue.errors import ConflictError, NotFoundError
from jsm_queue.store import tokens
from jsm_queue.store.database import reading, writing
from jsm_queue.store.tokens import create_token


def valid(engine: Engine, token: str, now: float | None = None) -> bool:
    with reading(engine) as session:
        return tokens.valid_token(session, token, now or time.time()) is not None


def revoke(engine: Engine, named: str) -> str:
    with writing(engine) as session:
        return tokens.revoke_token(session, named, 5.0).hash


def test_a_token_is_good_for_its_scope_until_it_ends(engine: Engine) -> None:
    token = create_token(engine, "submit", "alice", days=2)
    with reading(engine) as session:
        for scope, found in (("submit", True), ("admin", False), ("read", False)):
            assert (tokens.find_token(session, token, scope, time.time()) is not None) == found
    assert valid(engine, token) and not valid(engine, token + "x")
    assert not valid(engine, token, time.time() + 2 * tokens.DAY_S)
    assert valid(engine, create_token(engine, "admin"), time.time() + 1e9), "without days it has no end"


def test_it_is_revoked_by_name_or_by_the_beginning_of_its_id(engine: Engine) -> None:
    alice, bob = create_token(engine, "submit", "alice"), create_token(engine, "read", "bob")
    assert revoke(engine, "alice") == tokens.token_hash(alice)
    assert not valid(engine, alice) and valid(engine, bob)
    revoke(engine, tokens.token_hash(bob)[:6])
    assert not valid(engine, bob)
    for nobody in ("alice", "carol", "", tokens.token_hash(bob)[:6]):
        with pytest.raises(NotFoundError):
            revoke(engine, nobody)


def test_a_name_is_one_token_s_as_long_as_that_is_good(engine: Engine) -> None:
    first = create_token(engine, "submit", "alice")
    with pytest.raises(ConflictError, match="alice"):
        create_token(engine, "read", "alice")
    revoke(engine, "alice")
    second = create_token(engine, "read", "alice")
    assert not valid(engine, first) and valid(engine, second)


def test_the_list_has_everything_but_used_invites_and_secrets(engine: Engine) -> None:
    made = [create_token(engine, "admin", "root"), create_token(engine, "invite"), create_token(engine, "read", "bob")]
    revoke(engine, "bob")
    with reading(engine) as session:
        rows = tokens.list_tokens(session, time.time())
        later = tokens.list_tokens(session, time.time() + tokens.INVITE_S + 1)
    assert [row.scope for row in rows] == ["admin", "invite", "read"]
    assert [row.scope for row in later] == ["admin", "read"]
    assert not set(made) & {value for row in rows for value in row.model_dump().values() if isinstance(value, str)}
