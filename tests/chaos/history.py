"""What the events tell must be what DESIGN §5 allows, and must lead to what the tables say. Each check is of one look
at the store; `History` goes on from the last one.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from sqlmodel import Session, col, select

from jsm_queue.store import tables as t
from tests.chaos.pool import LEASE_S, OFFER_S

BEFORE = {
    "offered": {""},
    "running": {"offered", "suspect"},
    "delivering": {"running", "suspect"},
    "suspect": {"running", "delivering"},
    "accepted": {"running", "delivering", "suspect", "ended"},
    "ended": {"offered", "running", "delivering", "suspect"},
}
"""State of an attempt → the states from which it is reached."""

CHARGES = ("crashed", "stalled")


class History:
    """All events so far. `states`: attempt → where its events have led to, `changed`: and with which event."""

    def __init__(self) -> None:
        self.seq = 0
        self.states: dict[str, str] = {}
        self.changed: dict[str, int] = {}
        self.finished: set[str] = set()  # their result was whole on the worker's disk

    def look(self, session: Session) -> list[str]:
        """What is wrong with the events since the last look, and with the tables beside them."""
        since = {row.name: row.value for row in session.exec(select(t.Counter))}
        wrong: list[str] = []
        for event in session.exec(select(t.Event).where(col(t.Event.seq) > self.seq).order_by(col(t.Event.seq))).all():
            if event.seq != self.seq + 1:
                wrong.append(f"event {event.seq} follows {self.seq}")
            self.seq = event.seq
            if event.attempt and event.what.startswith("attempt "):
                wrong += self._step(session, event, event.attempt, since)
        for rule in (self._table, _times, _counts):
            wrong += rule(session)
        return wrong

    def _step(self, session: Session, event: t.Event, attempt: str, since: dict[str, float]) -> Iterator[str]:
        state, before = event.what.removeprefix("attempt "), self.states.get(attempt, "")
        said, name = event.data or {}, attempt[:12]
        if before not in BEFORE.get(state, {before}):
            yield f"attempt {name}: {before or 'nothing'} → {state}"
        self.states[attempt], self.changed[attempt] = state, event.seq
        if state == "delivering":
            self.finished.add(attempt)
        if state == "suspect" and 0 <= event.at - since.get("ticking_since", 0) < LEASE_S:
            yield f"attempt {name} is suspect although nothing has ticked for one lease"
        if state == "ended":
            yield from self._ended(attempt, before, said)
        if state == "accepted":
            yield from _untouched(session, attempt)

    def _ended(self, attempt: str, before: str, said: dict[str, Any]) -> Iterator[str]:
        """Work is lost only after it was suspect, and what is finished only to another result."""
        reason, in_time = said.get("reason"), before != "suspect"
        if reason == "lost" and in_time and "lease" in said["message"]:
            yield f"attempt {attempt[:12]} is lost before it was suspect"
        if attempt in self.finished and (in_time or reason != "lost") and reason != "superseded":
            yield f"attempt {attempt[:12]} was finished, and its result is thrown away: {said}"

    def _table(self, session: Session) -> Iterator[str]:
        for attempt, state in session.exec(select(t.Attempt.id, t.Attempt.state)):
            if self.states.get(attempt) != state:
                yield f"attempt {attempt[:12]} is {state}, its events say {self.states.get(attempt)}"


def _untouched(session: Session, attempt: str) -> Iterator[str]:
    """What a result names counts as used from then on."""
    row = session.get_one(t.Attempt, attempt)
    refs = select(t.Artifact).join(t.ArtifactRef, col(t.ArtifactRef.sha) == col(t.Artifact.sha))
    for artifact in session.exec(refs.where(t.ArtifactRef.job == row.job)):
        if row.state == "accepted" and artifact.touched_at < (row.ended_at or 0):
            yield f"artifact {artifact.sha[:12]} was not touched by the result that names it"


def _times(session: Session) -> Iterator[str]:
    """Each tick ends what is due, in the transaction that notes it."""
    counters = {row.name: row.value for row in session.exec(select(t.Counter))}
    tick = counters.get("tick", 0.0)
    late = select(t.Attempt.id).where(t.Attempt.state == "offered", t.Attempt.offered_at + OFFER_S < tick)
    yield from (f"offer {attempt[:12]} stays although nobody claims it" for attempt in session.exec(late))


def _counts(session: Session) -> Iterator[str]:
    """A job is charged with nothing but what its attempts' ends say."""
    ends = Counter((job, reason) for job, reason in session.exec(select(t.Attempt.job, t.Attempt.reason)))
    for job in session.exec(select(t.Job).where(t.Job.state != "done", col(t.Job.charges) + col(t.Job.losses) > 0)):
        if job.losses > ends[job.id, "lost"]:
            yield f"job {job.id[:12]} counts {job.losses} losses, its attempts were lost {ends[job.id, 'lost']} times"
        if job.charges > (crashed := sum(ends[job.id, reason] for reason in CHARGES)):
            yield f"job {job.id[:12]} has {job.charges} charges, its attempts crashed {crashed} times"
