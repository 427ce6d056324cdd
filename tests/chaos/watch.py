"""What must hold at every moment of a run: the store's invariants, its history, that everything goes on.

The first look that finds something ends the run: what follows from it tells nothing new.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col, select

from jsm_queue.planner import TERMINAL
from jsm_queue.store import leftovers
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from tests.chaos.history import History
from tests.chaos.pool import LEASE_S, WORKERS, ChaosPool, patience
from tests.lifecycle import invariants

LOOK_S = 1.5
STILL_S = 45.0  # longer than any fault, and than faults that follow each other mostly do
BUGS = ("IntegrityError", "TypeError", "AttributeError", "NameError", "KeyError", "ValueError", "AssertionError")


class Broken(AssertionError):
    """Something does not hold."""


class Watch:
    """`moved`: what should go on → (how it stood, since when)."""

    def __init__(self, pool: ChaosPool) -> None:
        self.pool, self.history = pool, History()
        self.moved: dict[str, tuple[Any, float]] = {}
        self.overdue: set[tuple[str, int]] = set()
        self._next, self._read = 0.0, 0

    def look(self, now: bool = False) -> None:
        """Raises Broken. Does nothing where the last look was a moment ago, or where the store is away."""
        if time.monotonic() < self._next and not now:
            return
        self.history.finished |= self.pool.saved
        with suppress(DBAPIError), reading(self.pool.store) as session:
            wrong = [*self.history.look(session), *_invariants(session), *_kept(session)]
            wrong += [*self._leases(session), *self._stands(session), *self._gone(session)]
            if wrong:
                raise Broken("; ".join(wrong[:5]))
        if wrong := self._logged():
            raise Broken(wrong)
        self._next = time.monotonic() + LOOK_S

    def _leases(self, session: Session) -> Iterator[str]:
        """An attempt of a worker whose lease expired is suspect with the next tick, once ticks go on.

        One that was suspect meanwhile is not late: a checkpoint revives it, before its worker's next heartbeat.
        """
        counters = {row.name: row.value for row in session.exec(select(t.Counter))}
        tick = counters.get("tick", 0.0)
        steady = tick - counters.get("ticking_since", tick) >= LEASE_S
        held = select(t.Attempt.id).join(t.Worker, col(t.Worker.id) == col(t.Attempt.worker))
        late = held.where(col(t.Attempt.state).in_(("running", "delivering")), t.Worker.lease_until < tick)
        seen = {(name, self.history.changed.get(name, 0)) for name in session.exec(late)} if steady else set()
        before, self.overdue = self.overdue, seen
        yield from (f"attempt {name[:12]}: its worker's lease is over" for name, _ in before & seen)

    def _stands(self, session: Session) -> Iterator[str]:
        """What a living worker does goes on; a worker whose process runs is heard of; something happens at all."""
        now, names = time.time(), {w.id: w for w in session.exec(select(t.Worker)) if w.name in WORKERS}
        stands: dict[str, Any] = {"the whole pool": self.history.seq}
        for attempt in session.exec(select(t.Attempt).where(col(t.Attempt.state).in_(("running", "delivering")))):
            if attempt.worker in names:
                stands[f"attempt {attempt.id[:12]}, {attempt.state},"] = (attempt.state, attempt.position)
                stands["the whole pool"] = (stands["the whole pool"], attempt.position)
        live = select(t.Attempt.run).where(col(t.Attempt.state).in_(t.LIVE))
        idle = select(t.Run).where(t.Run.state == "claimed", col(t.Run.id).not_in(live))
        for run in session.exec(idle):
            if run.worker in names and names[run.worker].lease_until > now:
                stands[f"run {run.id[:12]}, without attempts,"] = 0
        stands |= {f"{w.name}, unheard of,": 0 for w in names.values() if w.hello_at and w.lease_until < now}
        self.moved = {what: self._since(what, how) for what, how in stands.items()}
        for what, (_, since) in self.moved.items():
            if (still := time.monotonic() - since) > patience(STILL_S):
                yield f"{what} stands still for {still:.0f} s"

    def _since(self, what: str, how: Any) -> tuple[Any, float]:
        known = self.moved.get(what)
        return known if known and known[0] == how else (how, time.monotonic())

    def _gone(self, session: Session) -> Iterator[str]:
        """Every whole artifact lies there, unless it was doomed since the look began."""
        root = self.pool.home / "artifacts"
        for sha in session.exec(select(t.Artifact.sha).where(t.Artifact.state == "whole")):
            if not (root / sha[:2] / sha).is_file() and self._still_whole(sha):
                yield f"artifact {sha[:12]} is whole and not there"

    def _still_whole(self, sha: str) -> bool:
        with reading(self.pool.store) as session:
            row = session.get(t.Artifact, sha)
            return row is not None and row.state == "whole"

    def _logged(self) -> str:
        """An error of the api that no fault explains, in its own words."""
        log = self.pool.home / "api.log"
        text = log.read_bytes()[self._read :].decode(errors="replace")
        self._read += len(text.encode())
        lines = [line for line in text.splitlines() if any(f"{bug}: " in line or f"{bug})" in line for bug in BUGS)]
        return f"the api failed: {lines[0][:300]}" if lines else ""


def _invariants(session: Session) -> list[str]:
    """DESIGN §8, as the foundation's tests say it."""
    try:
        invariants.check(_view(session))
    except AssertionError as error:
        return [f"invariant {str(error).splitlines()[0]}"]
    return []


def _view(session: Session) -> dict[str, Any]:
    """The store in the form of `tests.lifecycle.scene.view`, with its own ids; of records who made them."""
    needs: dict[str, list[str]] = {}
    jobs = {job: tuple(row) for job, *row in session.exec(select(t.Job.id, t.Job.state, t.Job.accepted_attempt))}
    for job, need in session.exec(select(t.JobNeed.job, t.JobNeed.needs)):
        needs.setdefault(job, []).append(need)
    attempts, runs = session.exec(select(t.Attempt)).all(), session.exec(select(t.Run)).all()
    return {
        "needs": {job: needs.get(job, []) for job in jobs},
        "job": jobs,
        "attempt": {a.id: (a.job, a.run, a.worker, a.state, a.reason) for a in attempts},
        "run": {run.id: (run.worker, run.slot, run.state, run.delivery) for run in runs},
        "record": {(job, by): (by, 0) for job, by in session.exec(select(t.Record.job, t.Record.attempt).distinct())},
        "artifact": {sha: (state, 0) for sha, state in session.exec(select(t.Artifact.sha, t.Artifact.state))},
        "ref": {(ref.job, ref.role): ref.sha for ref in session.exec(select(t.ArtifactRef))},
    }


def _kept(session: Session) -> Iterator[str]:
    """What a study was given and what its jobs can be gone on with is not collected."""
    whole = set(session.exec(select(t.Artifact.sha).where(t.Artifact.state == "whole")))
    unfinished = select(t.Job.checkpoint, t.Job.checkpoint_prev).where(col(t.Job.state).not_in(list(TERMINAL)))
    checkpoints = {sha for pair in session.exec(unfinished) for sha in pair if sha}
    given = {sha for inputs in session.exec(select(t.Study.inputs)) for sha in leftovers._hashes(inputs)}
    yield from (f"checkpoint {sha[:12]} was collected" for sha in checkpoints - whole)
    yield from (f"input {sha[:12]} was collected" for sha in given - whole)
