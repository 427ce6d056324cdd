"""A whole pool in one thread: the real coordinator and store, workers whose results follow from the job alone.

The api can die before it commits any kind of change, and before it rings: what it had not committed is gone, and so are
all messages. The agent can die once it has claimed a run: it starts anew, with the results that are whole on its disk.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sqlalchemy import Engine
from sqlmodel import col, select

from jsm_queue import coordinator, lifecycle, protocol
from jsm_queue.canonical import canonical_json, content_hash
from jsm_queue.errors import ConflictError
from jsm_queue.kinds import KINDS
from jsm_queue.settings import Settings
from jsm_queue.store import queries
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from tests.lifecycle import scene
from tests.unit.studies import inputs, spec

ROUNDS = 25  # until a study that does not end counts as one that never will
CHANGES = ("list_jobs", "write_verdict", "end_study", "offer", "claim", "accept")
"""The lifecycle's functions within whose transactions the api can die."""
POINTS = (*CHANGES, "ring", "agent")


class Killed(BaseException):
    """A process died here."""


@dataclass
class Pool:
    """`bells`: what is in the queue; `finished`: attempt → job, results on the worker's disk."""

    engine: Engine
    home: Path
    kill_at: set[str] = field(default_factory=set)
    now: float = 1000.0
    sessions: int = 0
    bells: list[protocol.Bell] = field(default_factory=list)
    finished: dict[str, str] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Submit a small study and work until it ends. Returns what must not depend on any crash."""
        toy = spec(bases=[{"name": "a", "source": "bases/a"}], stages={"bases": {"n": 10, "seeds": [1]}})
        with writing(self.engine) as session:
            scene.join(session, "w0")
            study, _ = lifecycle.add_study(
                session, toy.model_dump(mode="json"), inputs(toy).model_dump(mode="json"), 0.0
            )
        self._start()
        with self._dying():
            for _ in range(ROUNDS):
                if self._ended(study.id):
                    break
                self._round()
        return self._outcome(study.id)

    def _round(self) -> None:
        self.now += 7
        try:
            coordinator.tick(self.engine, Settings(home=self.home), self._ring)
            while self.bells:
                self._work(self.bells.pop(0))
            for attempt, job in list(self.finished.items()):
                self._deliver(attempt, job)
        except Killed as killed:
            self.bells.clear()
            if killed.args == ("agent",):
                self._start()

    def _start(self) -> None:
        """The worker starts anew and says what is whole on its disk."""
        self.sessions += 1
        with writing(self.engine) as session:
            greeting = scene.greeting("w0", self._boot(), self.finished)
            for dropped in lifecycle.hello(session, session.get_one(t.Worker, "w0"), greeting, 1e9, self.now):
                self.finished.pop(dropped)

    def _boot(self) -> str:
        return f"{self.sessions:032x}"

    def _work(self, bell: protocol.Bell) -> None:
        request = protocol.ClaimRequest(boot_id=self._boot(), delivery="d" * 8)
        with writing(self.engine) as session:
            worker = session.get_one(t.Worker, "w0")
            run, granted = lifecycle.claim(session, bell.run, worker, request, self.now)
        self._reach("agent")
        self.finished |= {attempt.id: attempt.job for attempt in granted}
        with writing(self.engine) as session:
            slots = [scene.report(run.slot, free=True, run=run.id)]
            seen = [protocol.AttemptReport(attempt=name, phase="delivering") for name in self.finished]
            beat = protocol.HeartbeatRequest(boot_id=self._boot(), slots=slots, attempts=seen)
            lifecycle.heartbeat(session, session.get_one(t.Worker, "w0"), beat, 1e9, self.now)

    def _deliver(self, attempt: str, job: str) -> None:
        with writing(self.engine) as session:
            result = _result(session.get_one(t.Job, job))
            for artifact in result.artifacts:
                lifecycle.know(session, artifact.sha, artifact.size, self.now)
        with suppress(ConflictError), writing(self.engine) as session:
            lifecycle.accept(session, attempt, "w0", result, self.now)
        self.finished.pop(attempt)

    @contextmanager
    def _dying(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(patch.object(coordinator, "time", SimpleNamespace(time=lambda: self.now)))
            for name in CHANGES:
                stack.enter_context(patch.object(lifecycle, name, self._dying_after(name)))
            yield

    def _dying_after(self, name: str) -> Callable[..., Any]:
        real = getattr(lifecycle, name)

        def change(*given: Any, **named: Any) -> Any:
            done = real(*given, **named)
            self._reach(name)
            return done

        return change

    def _ring(self, _worker: str, _kind: str, bell: protocol.Bell) -> None:
        self._reach("ring")
        self.bells.append(bell)

    def _reach(self, point: str) -> None:
        if point in self.kill_at:
            self.kill_at.remove(point)
            raise Killed(point)

    def _ended(self, study: str) -> bool:
        with reading(self.engine) as session:
            return session.get_one(t.Study, study).state == "ended"

    def _outcome(self, study: str) -> dict[str, Any]:
        with reading(self.engine) as session:
            records = select(t.Record.job, t.Record.item, t.Record.name, t.Record.value)
            return {
                "state": session.get_one(t.Study, study).state,
                "jobs": dict(session.exec(select(t.Job.id, t.Job.state)).all()),
                "records": session.exec(records.order_by(col(t.Record.job), t.Record.item, t.Record.name)).all(),
                "verdicts": {stage: canonical_json(said) for stage, said in queries.decisions(session, study).items()},
            }


def _result(job: t.Job) -> protocol.ResultRequest:
    """Follows from the job alone, as a deterministic kind's does."""
    value = int(job.id[:2], 16) % 4
    records = [
        protocol.RecordIn(item=f"q{item}", name=name, value=value)
        for item in range(3)
        for name in {"score": ("nll", "tokens", "bytes"), "judge": ("score",)}.get(job.kind, ())
    ]
    files = [
        protocol.ArtifactIn(role=role, sha=content_hash([job.id, role]), size=1) for role in KINDS[job.kind].outputs
    ]
    return protocol.ResultRequest(records=records, metrics={"ok": 1.0}, artifacts=files)
