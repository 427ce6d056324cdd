"""Both sides of the state machine: each request goes to the model and to the lifecycle, and then all is compared."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from hypothesis.stateful import RuleBasedStateMachine, invariant
from sqlalchemy import Engine
from sqlmodel import Session

from jsm_queue import assigning, coordinator, lifecycle, protocol, scheduler
from jsm_queue.errors import ConflictError, GoneError
from jsm_queue.settings import Settings
from jsm_queue.store import queries
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from tests.lifecycle import invariants, scene
from tests.lifecycle.model import Model
from tests.lifecycle.rows import DISK_PAUSE_S, HELD, LEASE_S, TERMINAL, Refused, Slot

CHANGES: dict[str, Callable[..., Any]] = {
    "cancel": lambda *given: lifecycle.cancel_study(*given),
    "pause": lambda *given: lifecycle.pause_study(*given),
    "resume": lambda *given: lifecycle.resume_study(*given),
    "retry": lambda *given: lifecycle.retry_study(*given),
}
DELIVERY = "d" * 8


class Sides(RuleBasedStateMachine):
    """One store, emptied at the start of each example; two workers and two studies are there."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        super().__init__()
        self.engine, self.settings = engine, settings
        self.model, self.now = Model(), 1000.0
        self.boots: dict[str, str] = {}
        self.heard = {worker: (0, {}) for worker in scene.SLOTS}  # its control revision, and what was desired
        self.numbered = self.given = 0  # events; ids
        self.actor: str | None = None  # the worker that speaks in this step
        self.sound = self.changed = False  # changed: what is wanted
        scene.empty(self.engine)
        with writing(self.engine) as session:
            for worker in scene.SLOTS:
                scene.join(session, worker)
        self.model.events += [("worker joined", worker) for worker in scene.SLOTS]
        for worker in scene.SLOTS:
            self.hello(worker, [])
        for study in ("s0", "s1"):
            self.submit(study)

    def same(self, expected: Callable[[], Any], actual: Callable[[Session], Any]) -> Any:
        """The model's answer, which is the lifecycle's too: a value, or what it is refused with."""
        want, got = _outcome(expected), _outcome(lambda: self._write(actual))
        assert got == want, f"the lifecycle answered {got!r}, the model {want!r}"
        return want

    def _write(self, act: Callable[[Session], Any]) -> Any:
        with writing(self.engine) as session:
            return act(session)

    def new_id(self) -> str:
        """Ids in the order in which they are asked for, so that an example that failed fails again."""
        self.given += 1
        return f"{self.given:032x}"

    # ---- requests ----

    def submit(self, study: str) -> None:
        """The api adds the study, the planner lists its jobs."""
        drafts = {
            job: (tuple(scene.NAMES[n] for n in scene.JOBS[job].needs.values()), frozenset(scene.files(job, "")))
            for job in scene.STUDIES[study]
        }
        self.same(
            lambda: (self.model.submit(study, [scene.sha(study)]), self.model.list_jobs(study, drafts)),
            lambda s: scene.submit(s, study, self.now),
        )

    def change(self, study: str, verb: str) -> None:
        """What people do to a study."""
        self.changed = True
        self.same(
            lambda: getattr(self.model, verb)(study),
            lambda s: CHANGES[verb](s, s.get_one(t.Study, scene.study_id(study)), self.now),
        )

    def end_study(self, study: str) -> None:
        """The planner says that nothing is left, from what it read."""
        self.same(
            lambda: self.model.end_study(study),
            lambda s: lifecycle.end_study(s, scene.study_id(study), self.now),
        )

    def tick(self, seconds: int) -> None:
        """The api's clock goes on, and the coordinator reaps."""
        self.actor = None
        self.now += seconds
        self.model.tick(self.now)
        coordinator._reap(self.engine, self.settings, self.now)

    def assign(self) -> list[tuple[str, str, str]]:
        """A coordinator offers what it finds: (worker, run, attempt) of each."""
        self.actor = None
        bells: list[tuple[str, str, str]] = []
        full = self.model.excluded(self.now)
        with patch.object(assigning.uuid, "uuid4", lambda: _Uuid(self.new_id())):
            assigning.assign(self.engine, lambda w, _, bell: bells.append((w, bell.run, bell.attempts[0])), self.now)
        for worker, run, attempt in bells:
            with reading(self.engine) as session:
                job = scene.NAMES[session.get_one(t.Attempt, attempt).job]
                slot = session.get_one(t.Run, run).slot
            self._must_be_free(job, worker, slot, full)
            assert self.model.offer(job, worker, slot, run, attempt, self.now), f"{job} or the slot was not free"
        return bells

    def _must_be_free(self, job: str, worker: str, slot: int, full: set[tuple[str, str]]) -> None:
        assert job in self.model.assignable(), f"{job} was offered and is not wanted or not ready"
        assert self.model.workers[worker].slots[slot], f"{job} was offered to a slot that was not reported free"
        assert self.model.workers[worker].lease_until > self.now, f"{job} was offered to a worker that is away"
        assert (job, worker) not in full, f"{job} was offered to a worker whose disk it filled"

    def offer(self, choice: scheduler.Offer) -> tuple[str, str]:
        """A coordinator writes what it decided some time ago. Returns the run and the attempt, if it came to them."""
        self.actor = None
        run, attempt = self.new_id(), self.new_id()
        self.same(
            lambda: self.model.offer(scene.NAMES[choice.jobs[0]], choice.worker, choice.slot, run, attempt, self.now),
            lambda s: bool(lifecycle.offer(s, choice, run, [attempt], self.now)),
        )
        return run, attempt

    def hello(self, worker: str, undelivered: list[str], again: bool = False, running: Collection[str] = ()) -> None:
        """A session begins, or the one that is there begins `again`, or one in which `running` goes on."""
        self.actor = worker
        boot = self.boots[worker] if again else self.new_id()
        taken = {self.model.runs[self.model.attempts[name].run].slot for name in running}
        greeting = scene.greeting(worker, boot, undelivered, running, taken)
        slots = {idx: idx not in taken for idx in scene.SLOTS[worker]}
        self.same(
            lambda: self.model.hello(worker, boot, undelivered, list(running), slots, self.now),
            lambda s: lifecycle.hello(s, s.get_one(t.Worker, worker), greeting, LEASE_S, self.now),
        )
        self.boots[worker] = boot

    def heartbeat(
        self, worker: str, boot: str, slots: list[Slot], seen: Mapping[str, protocol.Phase], disk: int | None
    ) -> None:
        """`seen`: attempt → phase."""
        self.actor = worker
        request = protocol.HeartbeatRequest(
            boot_id=boot,
            slots=[scene.report(*slot) for slot in slots],
            attempts=[protocol.AttemptReport(attempt=name, phase=phase) for name, phase in seen.items()],
            disk_free=disk,
        )
        self.same(
            lambda: self.model.heartbeat(worker, boot, slots, seen, disk, self.now),
            lambda s: lifecycle.heartbeat(s, s.get_one(t.Worker, worker), request, LEASE_S, self.now),
        )

    def leave(self, worker: str, boot: str) -> None:
        """A session ends, and its lease."""
        self.actor = worker
        self.same(
            lambda: self.model.leave(worker, boot, self.now),
            lambda s: lifecycle.leave(s, s.get_one(t.Worker, worker), boot, self.now),
        )

    def claim(self, run: str, worker: str, boot: str, delivery: str = DELIVERY) -> None:
        """A message arrived."""
        self.actor = worker
        request = protocol.ClaimRequest(boot_id=boot, delivery=delivery)
        self.same(
            lambda: self.model.claim(run, worker, boot, delivery),
            lambda s: [a.id for a in lifecycle.claim(s, run, s.get_one(t.Worker, worker), request, self.now)[1]],
        )

    def accept(self, name: str, worker: str, files: dict[str, str]) -> None:
        """Two records of which one is the attempt's own."""
        self.actor = worker
        records = {"q1": 2.0, "q2": float(int(name, 16))}
        self.same(
            lambda: self.model.accept(name, worker, files, records, self.now),
            lambda s: lifecycle.accept(s, name, worker, scene.result(files, records), self.now),
        )

    def end(self, name: str, worker: str, reason: protocol.EndReason) -> None:
        """The worker says so."""
        self.actor = worker
        request = protocol.EndRequest(reason=reason, message="why")
        self.same(
            lambda: self.model.end(name, worker, reason, self.now),
            lambda s: lifecycle.end(s, name, worker, request, self.now),
        )

    def checkpoint(self, name: str, worker: str, sha: str, position: int) -> None:
        """Where a later attempt can go on."""
        self.actor = worker
        request = protocol.CheckpointRequest(sha=sha, position=position)
        self.same(
            lambda: self.model.checkpoint(name, worker, sha, position, self.now),
            lambda s: lifecycle.checkpoint(s, name, worker, request, self.now),
        )

    def know(self, shas: list[str]) -> None:
        """These files are uploaded, and a second later."""
        for sha in shas:
            self.same(
                lambda sha=sha: self.model.know(sha, self.now),
                lambda s, sha=sha: lifecycle.know(s, sha, 1, self.now),
            )
        self.now += 1

    def doom(self, age: int) -> list[str]:
        """What nobody touched for so long."""
        before = self.now - age
        return self.same(lambda: self.model.doom(before), lambda s: lifecycle.doom(s, before, self.now))

    def forget(self, sha: str) -> None:
        """The collector removed it."""
        self.same(lambda: self.model.forget(sha), lambda s: lifecycle.forget(s, sha))

    # ---- what must hold ----

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        """And DESIGN §8 holds."""
        self.check()

    def check(self) -> None:
        """Compares row by row. Raises AssertionError."""
        self.sound, self.now = False, self.now + 1
        want = self.model.view()
        with reading(self.engine) as session:
            seen = scene.view(session)
            _compare(want, seen)
            invariants.check(seen)
            self._check_events(session)
            self._check_control(session)
            if self.changed or self.now % 3 < 1:  # it costs as much as all else, and what is wrong mostly stays so
                self._check_what_others_see(session)
        self.sound, self.changed = True, False

    def _check_events(self, session: Session) -> None:
        found = scene.events(session, self.numbered)
        numbers = [seq for seq, *_ in found]
        assert numbers == list(range(self.numbered + 1, self.numbered + 1 + len(found))), f"events {numbers}: a gap"
        new, want = Counter((what, about) for _, what, about in found), Counter(self.model.events)
        assert new == want, f"events: {_difference(want, new)}"
        self.numbered, self.model.events = self.numbered + len(found), []

    def _check_what_others_see(self, session: Session) -> None:
        _compare(self.model.seen_by_others(), scene.seen_by_others(session))
        full = {(scene.NAMES[job], worker) for job, worker in queries.full_disks(session, self.now - DISK_PAUSE_S)}
        assert full == self.model.excluded(self.now), "full disks"

    def _check_control(self, session: Session) -> None:
        """Workers hear of it when what is desired of an attempt changed, but for what they did themselves."""
        for worker in scene.SLOTS:
            last, old = self.heard[worker]
            new, revision = self.model.desired(worker), session.get_one(t.Worker, worker).control_rev
            changed = {name for name in old.keys() & new.keys() if old[name] != new[name]}
            if changed and worker != self.actor:
                assert revision > last, f"{worker} does not hear of {changed}"
            self.heard[worker] = revision, new

    def teardown(self) -> None:
        """The workers come back and work: every study that is wanted ends."""
        if self.sound:
            self._work_to_the_end()
            wanted = {job for study in self.model.studies.values() if study.state == "running" for job in study.jobs}
            left = {job: self.model.jobs[job].state for job in wanted if self.model.jobs[job].state not in TERMINAL}
            assert not left, f"2: nobody can do {left}"
            self.check()

    def _work_to_the_end(self) -> None:
        for _ in range(len(scene.JOBS) * 2):
            for worker in scene.SLOTS:
                self.hello(worker, [])
            if not (offers := self.assign()):
                return
            for worker, run, name in offers:
                self.claim(run, worker, self.boots[worker])
                self.deliver(name)

    # ---- what is needed often ----

    def deliver(self, name: str) -> None:
        """Its own worker uploads and posts the whole result."""
        files = scene.files(self.model.attempts[name].job, name)
        self.know(list(files.values()))
        self.accept(name, self.model.attempts[name].worker, files)

    def beat(self, worker: str, phase: protocol.Phase = "running") -> None:
        """An honest heartbeat: what it runs, in that phase, and which slots are free by now."""
        seen: dict[str, protocol.Phase] = {name: phase for name in self.held(worker)}  # noqa: C420
        runs = {idx: self.model.open_run(worker, idx) for idx in scene.SLOTS[worker]}
        busy = {
            a.run for n, a in self.model.attempts.items() if a.state in ("offered", "running") and phase == "running"
        }
        slots = [(idx, run not in busy, run) for idx, run in runs.items()]
        self.heartbeat(worker, self.boots[worker], slots, seen, self.model.workers[worker].disk)

    def held(self, worker: str) -> list[str]:
        """The attempts that the worker has."""
        return [name for name, a in self.model.attempts.items() if a.worker == worker and a.state in HELD]


@dataclass(frozen=True)
class _Uuid:
    hex: str


def _outcome(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except Refused as refused:
        return refused.code
    except ConflictError:
        return "conflict"
    except GoneError:
        return "gone"


def _compare(want: dict[str, Any], seen: dict[str, Any]) -> None:
    for table, rows in want.items():
        assert seen[table] == rows, f"{table}: {_difference(rows, seen[table])}"


def _difference(want: Any, got: Any) -> str:
    if not isinstance(want, dict):
        return f"the model has {sorted(want - got)} more, the store {sorted(got - want)}"
    keys = sorted((key for key in want.keys() | got.keys() if want.get(key) != got.get(key)), key=str)
    return "; ".join(f"{key}: {want.get(key)} in the model, {got.get(key)} in the store" for key in keys)
