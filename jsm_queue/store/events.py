"""The event log: one row a change of state, numbered without gaps."""

from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col

from jsm_queue.store.database import insert_or_ignore
from jsm_queue.store.tables import Counter, Event


def log(
    session: Session,
    now: float,
    what: str,
    study: str | None = None,
    job: str | None = None,
    attempt: str | None = None,
    worker: str | None = None,
    data: dict[str, Any] | None = None,
) -> None:
    """Add an event. Its number comes from a counter row, so the order of numbers is the order of commits."""
    insert_or_ignore(session, Counter(name="event", value=0))
    bump = (
        update(Counter)
        .where(col(Counter.name) == "event")
        .values(value=Counter.value + 1)
        .returning(col(Counter.value))
    )
    seq = int(session.connection().execute(bump).scalar_one())
    session.add(Event(seq=seq, at=now, what=what, study=study, job=job, attempt=attempt, worker=worker, data=data))
