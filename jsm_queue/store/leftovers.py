"""What nobody needs any more: artifacts, places where files were believed to lie, logs of attempts.

Nothing here writes.
"""

from collections.abc import Collection

from sqlalchemy import ColumnElement, func, or_
from sqlmodel import Session, col, select

from jsm_queue.planner import TERMINAL
from jsm_queue.store import tables as t

MANY = 5_000  # values of one query


def unreferenced(session: Session, before: float, only: str | None = None) -> list[t.Artifact]:
    """The whole artifacts that nobody refers to and nobody touched since `before`; or that one, if it is such.

    A job's results are referred to, a study's inputs, and the checkpoints of a job that is not terminal.
    """
    untouched = select(t.Artifact).where(
        t.Artifact.state == "whole",
        col(t.Artifact.touched_at) < before,
        col(t.Artifact.sha).not_in(select(t.ArtifactRef.sha)),
    )
    if only is not None:
        untouched = untouched.where(t.Artifact.sha == only)
    unfinished = select(t.Job.checkpoint, t.Job.checkpoint_prev).where(col(t.Job.state).not_in(list(TERMINAL)))
    kept = {sha for pair in session.exec(unfinished).all() for sha in pair}
    for inputs in session.exec(select(t.Study.inputs)).all():
        kept |= _hashes(inputs)
    return [artifact for artifact in session.exec(untouched.order_by(t.Artifact.sha)) if artifact.sha not in kept]


def _hashes(value: object) -> set[str]:
    """Every content hash in a study's inputs, wherever it stands."""
    if isinstance(value, dict):
        return {sha for each in value.values() for sha in _hashes(each)}
    if isinstance(value, list):
        return {sha for each in value for sha in _hashes(each)}
    return {value} if isinstance(value, str) and len(value) == 64 else set()


def stale_place(told: type[t.ArtifactAt] | type[t.ArtifactFrom]) -> ColumnElement[bool]:
    """Rows of files that the api does not have, and of workers that were removed."""
    removed = select(t.Worker.id).where(t.Worker.state == "removed")
    return or_(col(told.sha).not_in(select(t.Artifact.sha)), col(told.worker).in_(removed))


def stale_places(session: Session) -> int:
    """How many such rows there are."""
    counts = (
        session.exec(select(func.count()).select_from(told).where(stale_place(told))).one()
        for told in (t.ArtifactAt, t.ArtifactFrom)
    )
    return sum(counts)


def ended_before(session: Session, attempts: Collection[str], before: float) -> set[str]:
    """Those of the attempts that ended before then, and those that the store does not know."""
    ids, known = sorted(attempts), dict[str, float | None]()
    for start in range(0, len(ids), MANY):
        some = col(t.Attempt.id).in_(ids[start : start + MANY])
        known |= dict(session.exec(select(t.Attempt.id, t.Attempt.ended_at).where(some)).all())
    return {attempt for attempt in attempts if attempt not in known or (known[attempt] or before) < before}
