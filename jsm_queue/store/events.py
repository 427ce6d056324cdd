"""The event log: one row a change of state, numbered without gaps."""

import logging
from typing import Any

from sqlalchemy import event, update
from sqlmodel import Session, col

from jsm_queue import logs
from jsm_queue.crashpoints import SHORT
from jsm_queue.store.database import insert_or_ignore
from jsm_queue.store.tables import Counter, Event

logger = logging.getLogger(__name__)

RESTORED = "store restored"
"""The event after which the numbers before it are those of a backup."""
MOST = 500  # characters of a logged line: a verdict's decision may have thousands


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
    """Add an event. Its number comes from a counter row, so the order of numbers is the order of commits.

    Once it is committed it is a line of the log too.
    """
    insert_or_ignore(session, Counter(name="event", value=0))
    bump = (
        update(Counter)
        .where(col(Counter.name) == "event")
        .values(value=Counter.value + 1)
        .returning(col(Counter.value))
    )
    seq = int(session.connection().execute(bump).scalar_one())
    session.add(Event(seq=seq, at=now, what=what, study=study, job=job, attempt=attempt, worker=worker, data=data))
    session.info.setdefault("events", []).append(f"{what} {(job or '')[:SHORT]}".rstrip())
    words = {"study": study, "job": job, "attempt": attempt, "worker": worker}
    named = {name: value for name, value in words.items() if value}
    event.listen(session, "after_commit", lambda _: _say(what, data, named), once=True)


def _say(what: str, data: dict[str, Any] | None, named: dict[str, str]) -> None:
    with logs.about(**named):
        logger.info("%s", f"{what} {data}"[:MOST] if data else what)
