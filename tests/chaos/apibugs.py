"""Bugs of the protocol to plant in the api. Each is a mistake that somebody could make, and replaces one function."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sqlmodel import Session, select

from jsm_queue import artifacts, lifecycle, protocol
from jsm_queue.canonical import file_hash
from jsm_queue.errors import ConflictError
from jsm_queue.store import tables as t
from jsm_queue.store.tokens import token_hash
from tests.chaos import bugs
from tests.lifecycle import planted as foundation
from tests.planting import Plant, into, nothing

BUGS: dict[str, Plant] = {}
_bug = into(BUGS)


def planted() -> AbstractContextManager[Any]:
    """The bug that CHAOS_BUG names, if it is one of the api, of these or of the foundation's: in force inside."""
    return bugs.chosen(BUGS | foundation.BUGS)


@_bug
def an_upload_is_not_verified() -> Iterator[None]:
    def verify(partial: Path, sha: str, size: int) -> None:
        if not partial.is_file() or partial.stat().st_size != size:
            raise ConflictError(f"Artifact {sha}: not all is here")

    with patch.object(artifacts, "_verify", verify):
        yield


@_bug
def a_broken_upload_is_kept() -> Iterator[None]:
    def verify(partial: Path, sha: str, _size: int) -> None:
        if not partial.is_file() or file_hash(partial) != sha:
            raise ConflictError(f"Artifact {sha}: something else arrived")

    with patch.object(artifacts, "_verify", verify):
        yield


@_bug
def an_invite_is_used_again() -> Iterator[None]:
    from api.routes import worker

    def find(session: Session, token: str, scope: str, _now: float) -> t.Token | None:
        return session.exec(select(t.Token).where(t.Token.hash == token_hash(token), t.Token.scope == scope)).first()

    with patch.object(worker, "find_token", find):
        yield


@_bug
def a_removed_worker_goes_on() -> Iterator[None]:
    from api import auth

    def holder(session: Session, token: str) -> t.Worker | None:
        return session.exec(select(t.Worker).where(t.Worker.token_hash == token_hash(token))).first()

    with patch.object(auth, "holder", holder):
        yield


@_bug
def a_result_names_any_file() -> Iterator[None]:
    from api.routes import worker

    with patch.object(worker, "_require_own", nothing):
        yield


@_bug
def a_claim_that_comes_twice_is_refused() -> Iterator[None]:
    def claim(session: Session, run: str, worker: t.Worker, request: protocol.ClaimRequest, now: float) -> Any:
        row = session.get(t.Run, run)
        if row is not None and row.state == "claimed":
            raise ConflictError(f"Run {run} is claimed")
        return real(session, run, worker, request, now)

    real = lifecycle.claim
    with patch.object(lifecycle, "claim", claim):
        yield


@_bug
def a_result_that_comes_twice_is_refused() -> Iterator[None]:
    def accept(session: Session, attempt: str, *rest: Any) -> bool:
        if not real(session, attempt, *rest):
            raise ConflictError(f"Attempt {attempt} is accepted")
        return True

    real = lifecycle.accept
    with patch.object(lifecycle, "accept", accept):
        yield


@_bug
def no_lease_ever_ends() -> Iterator[None]:
    real = lifecycle.reap
    with patch.object(lifecycle, "reap", lambda session, offer_s, now, leases: real(session, offer_s, now, False)):
        yield


@_bug
def a_restarted_broker_knows_nobody() -> Iterator[None]:
    """Its users are told when their workers start, and never again."""
    from api import brokerusers

    with patch.object(brokerusers, "_loop", nothing):
        yield
