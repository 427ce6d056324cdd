"""Artifacts: known when whole, doomed before they are removed."""

from typing import Any, cast

from sqlalchemy import CursorResult, delete, update
from sqlmodel import Session, col, select

from jsm_queue.errors import ConflictError
from jsm_queue.store import leftovers
from jsm_queue.store import tables as t
from jsm_queue.store.database import insert_or_ignore
from jsm_queue.store.events import log


def know(session: Session, sha: str, size: int, now: float, sender: str = "") -> None:
    """A file is whole and verified; one that was doomed is not any more. `sender`: the worker that sent all of it."""
    if sender:
        insert_or_ignore(session, t.ArtifactFrom(sha=sha, worker=sender))
    known = session.get(t.Artifact, sha)
    if known is None:
        session.add(t.Artifact(sha=sha, size=size, created_at=now, touched_at=now))
        session.flush()
        return
    known.touched_at = now
    if known.state == "doomed":
        known.state = "whole"
        log(session, now, "artifact whole", data={"sha": sha})


def touch(session: Session, shas: list[str], now: float) -> None:
    """Somebody relies on these files: they are not collected for a while."""
    session.connection().execute(update(t.Artifact).where(col(t.Artifact.sha).in_(shas)).values(touched_at=now))


def require_whole(session: Session, sha: str, now: float) -> None:
    """Raises ConflictError unless the file is here, and stays. Touches it."""
    artifact = session.get(t.Artifact, sha)
    if artifact is None or artifact.state != "whole":
        raise ConflictError(f"Artifact {sha} was not uploaded", "Upload it, then send this again")
    artifact.touched_at = now


def doom(session: Session, before: float, now: float, only: str | None = None) -> list[str]:
    """whole → doomed: the files that nobody refers to and nobody touched since `before`; or that one alone.

    Returns all doomed ones.
    """
    for artifact in leftovers.unreferenced(session, before, only):
        artifact.state = "doomed"
        log(session, now, "artifact doomed", data={"sha": artifact.sha})
    session.flush()
    return list(session.exec(select(t.Artifact.sha).where(t.Artifact.state == "doomed").order_by(t.Artifact.sha)))


def forget(session: Session, sha: str) -> None:
    """A doomed file was removed: who sent it, and where else it lies, matters no more."""
    session.connection().execute(
        delete(t.Artifact).where(col(t.Artifact.sha) == sha, col(t.Artifact.state) == "doomed")
    )
    for told in (t.ArtifactFrom, t.ArtifactAt):
        session.connection().execute(delete(told).where(col(told.sha) == sha))


def forget_places(session: Session) -> int:
    """Drop what is believed of files that the api does not have and of workers that were removed. Returns the rows.

    No job needs such a file, or it is looked for elsewhere.
    """
    return sum(
        cast(CursorResult[Any], session.connection().execute(delete(told).where(leftovers.stale_place(told)))).rowcount
        for told in (t.ArtifactFrom, t.ArtifactAt)
    )
