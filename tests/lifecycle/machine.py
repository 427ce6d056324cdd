"""The Hypothesis state machine: every request of the lifecycle in any order, against the model, on a real store.

After each step the store's whole state equals the model's, its new events are the model's, and what DESIGN §8 says
holds. At the end the workers do their work, and every study that is wanted comes to its end.
"""

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from sqlalchemy import Engine

from jsm_queue import protocol, scheduler
from jsm_queue.settings import Settings
from tests.lifecycle import scene
from tests.lifecycle.rows import DEAD, HELD, LIVE
from tests.lifecycle.sides import DELIVERY, Sides

T = TypeVar("T")

EXAMPLES = 18  # sequences that the suite tries, always the same ones
STEPS_OF_ONE = 25
HUNTS = 150  # sequences until a bug counts as one that is not found
SWEEP = int(os.environ.get("JSM_MACHINE_EXAMPLES", "0"))
"""How many sequences a sweep tries, none of them the same as last time; 0: the suite's own."""

STALE = "0" * 8  # the boot id of a session that is over
WORKERS = sorted(scene.SLOTS)
REASONS: tuple[protocol.EndReason, ...] = (
    "crashed", "crashed", "crashed", "stalled", "oom", "oom", "released", "disk", "cancelled", "error", "error", "lost",
    "lost",
)  # fmt: skip
REPEATED: tuple[protocol.EndReason, ...] = ("crashed", "crashed", "stalled", "lost", "oom")
STEPS = {
    "ending": 4, "study": 5, "tick": 1, "away": 2, "work": 2, "slow_coordinator": 2, "greet": 2, "report": 2,
    "report_anything": 3, "poison": 1, "ring": 2, "result": 3, "late_result": 2, "progress": 3, "collect": 1,
    "leave": 1,
}  # fmt: skip
"""Step → its weight. One rule chooses among them: Hypothesis by itself leaves out most rules in most examples."""
WEIGHTED = [step for step, weight in STEPS.items() for _ in range(weight)]


@dataclass(frozen=True)
class Drawn:
    """The choices of a step: Hypothesis' own, or a generator's."""

    choose: Callable[[Sequence[Any]], Any]

    def one_of(self, values: Sequence[T]) -> T:
        """One of these; a value that stands twice comes twice as often."""
        return self.choose(values)

    def mostly(self, usual: T, *others: T) -> T:
        """The usual one six times of seven."""
        return self.one_of([*[usual] * 6 * len(others), *others])


class LifecycleMachine(Sides):
    """What may happen."""

    @rule(step=st.sampled_from(WEIGHTED), data=st.data())
    def step(self, step: str, data: st.DataObject) -> None:
        """One of STEPS."""
        self.do(step, Drawn(lambda values: data.draw(st.sampled_from(values))))

    def do(self, step: str, drawn: Drawn) -> None:
        """One of STEPS, with these choices."""
        getattr(self, f"do_{step}")(drawn)

    # ---- people, the planner, the coordinator ----

    def do_study(self, drawn: Drawn) -> None:
        """People, and the planner: it lists the same again, and ends what had nothing left when it looked."""
        verbs = ["pause", "pause", "cancel", "cancel", "submit", "resume", "retry", "end"]
        dead = any(job.state in DEAD for job in self.model.jobs.values())
        verb = drawn.one_of([*verbs, *["retry"] * 6 * dead])
        study = drawn.one_of(["s0", "s0", "s1", "s1", "s2"])
        if verb == "submit" or study not in self.model.studies:
            self.submit(study)
        elif verb != "end":
            self.change(study, verb)
            self.assign()
        else:
            self.end_study(study)

    def do_tick(self, drawn: Drawn) -> None:
        """Longer than half a lease between two ticks, and the api was away."""
        seconds = drawn.one_of([5, 25, 25, 31, 100])
        for _ in range(drawn.one_of([1, 2, 4])):
            self.tick(seconds)

    def do_away(self, drawn: Drawn) -> None:
        """One worker is not heard of until its lease is over; the others are."""
        self._start_something()
        away = drawn.one_of(WORKERS)
        for _ in range(4):
            self.tick(29)
            for worker in WORKERS:
                if worker != away:
                    self.beat(worker)

    def do_work(self, drawn: Drawn) -> None:
        """The workers free their slots and start what they are offered, at once or later."""
        self._work(claimed=drawn.mostly(True, False))

    def _work(self, claimed: bool = True) -> None:
        for worker in WORKERS:
            self.beat(worker)
        for worker, run, _ in self.assign():
            if claimed:
                self.claim(run, worker, self.boots[worker])

    def _start_something(self) -> None:
        if not any(attempt.state in HELD for attempt in self.model.attempts.values()):
            self._work()

    def do_slow_coordinator(self, drawn: Drawn) -> None:
        """It read that a job was ready and a slot free, and writes now, when neither may hold any more."""
        ready = [name for name, job in self.model.jobs.items() if job.state == "ready"]
        draft = scene.JOBS[drawn.one_of([*ready * 3, *self.model.jobs])]
        taken = [slot for slot in self._slots() if self.model.open_run(*slot)]
        self.offer(scheduler.Offer((draft.id,), draft.kind, *drawn.one_of([*taken, *self._slots()])))

    def _slots(self) -> list[tuple[str, int]]:
        return [(worker, idx) for worker in WORKERS for idx in scene.SLOTS[worker]]

    # ---- workers ----

    def do_greet(self, drawn: Drawn) -> None:
        """A machine starts anew, with all its results on its disk or with none; or its old session speaks; or it is the
        store that is another one, and all that the machine had goes on.
        """
        worker = drawn.one_of(WORKERS)
        has = self._attempts_of(worker)
        finished, running = drawn.one_of([(has, []), ([], []), ([], has)])
        self.hello(worker, finished, again=drawn.one_of([False] * 5 + [True]), running=running)

    def do_leave(self, drawn: Drawn) -> None:
        """A machine says goodbye, or its old session does; what it still holds others may take."""
        worker = drawn.one_of(WORKERS)
        self.leave(worker, drawn.mostly(self.boots[worker], STALE))
        self.tick(1)

    def do_report(self, drawn: Drawn) -> None:
        """What it runs; or what it ran is whole and its slots are free; or it holds nothing; or the old session."""
        worker = drawn.one_of(WORKERS)
        how = drawn.one_of(["runs", "finished", "forgot", "old session"])
        if how == "runs":
            return self.beat(worker)
        if how == "finished":
            return self.beat(worker, "delivering")
        slots = [(idx, True, self.model.open_run(worker, idx)) for idx in scene.SLOTS[worker]]
        boot = STALE if how == "old session" else self.boots[worker]
        self.heartbeat(worker, boot, slots, {}, self.model.workers[worker].disk)

    def do_report_anything(self, drawn: Drawn) -> None:
        """Written earlier, or late: any run of a slot, any attempts in any phase, another disk."""
        worker = drawn.one_of(WORKERS)
        own = self._attempts_of(worker)[-4:] or ["f" * 32]
        phases: list[protocol.Phase | None] = [None, "running", "delivering"]
        seen: dict[str, protocol.Phase] = {name: phase for name in own if (phase := drawn.one_of(phases))}
        slots = []
        for idx in scene.SLOTS[worker]:
            runs = [name for name, row in self.model.runs.items() if (row.worker, row.slot) == (worker, idx)]
            slots.append((idx, drawn.one_of([True, False]), drawn.one_of([None, *runs[-3:]])))
        self.heartbeat(worker, self.boots[worker], slots, seen, drawn.one_of([None, 100, 200]))

    def do_ring(self, drawn: Drawn) -> None:
        """A message reaches the right worker or another, for the first time, again, as a second one, or late."""
        self.assign()
        runs = [run for run, row in self.model.runs.items() if row.state == "offered"] + list(self.model.runs)[-3:]
        if not runs:
            return
        run = drawn.one_of(runs)
        worker = drawn.mostly(self.model.runs[run].worker, *WORKERS)
        boot = drawn.one_of([self.boots[worker]] * 9 + [STALE])
        self.claim(run, worker, boot, drawn.one_of([DELIVERY, DELIVERY, "e" * 8]))

    def do_result(self, drawn: Drawn) -> None:
        """Of a live attempt or another, own or foreign, whole or not, its files sent or not."""
        self._start_something()
        names = list(self.model.attempts)
        if not names:
            return
        name = self._pick(drawn, names)
        attempt = self.model.attempts[name]
        files = scene.files(attempt.job, name)
        how = drawn.one_of(["sent"] * 7 + ["unsent", "incomplete", "doomed", "doomed"])
        if how in ("sent", "doomed"):
            self.know(list(files.values()))
        if how == "doomed":
            self.doom(0)
        if how == "incomplete":
            files = {} if files else {"gguf": scene.sha("another kind's")}
        self.accept(name, drawn.mostly(attempt.worker, *WORKERS), files)

    def do_late_result(self, drawn: Drawn) -> None:
        """Of an attempt that is suspect, lost or cancelled; mostly while its job is not done."""
        names = [n for n, a in self.model.attempts.items() if a.state == "suspect" or a.reason in ("lost", "cancelled")]
        waited_for = [n for n in names if self.model.jobs[self.model.attempts[n].job].state != "done"]
        if names:
            self.deliver(drawn.one_of([*waited_for * 3, *names[-2:]]))

    def do_ending(self, drawn: Drawn) -> None:
        """For the first time, again, with another reason, or a foreign one; mostly its slot is free then."""
        self._start_something()
        if self.model.attempts:
            name = self._pick(drawn, list(self.model.attempts))
            own = self.model.attempts[name].worker
            worker = drawn.mostly(own, *WORKERS)
            self.end(name, worker, drawn.one_of(REASONS))
            if worker == own and drawn.mostly(True, False):
                self.beat(worker)

    def do_poison(self, drawn: Drawn) -> None:
        """One job ends the same way again and again, here and there."""
        ready = [name for name, job in self.model.jobs.items() if job.state == "ready"]
        reason = drawn.one_of(REPEATED)
        if ready:
            job = scene.JOBS[drawn.one_of(ready)]
            for _ in range(drawn.one_of([2, 3, 5])):
                worker, idx = drawn.one_of(self._slots())
                run, attempt = self.offer(scheduler.Offer((job.id,), job.kind, worker, idx))
                if attempt in self.model.attempts:
                    self.claim(run, worker, self.boots[worker])
                    self.end(attempt, worker, reason)
                    self.beat(worker)

    def do_progress(self, drawn: Drawn) -> None:
        """A checkpoint further on, equal, behind, from a replaced attempt, or without its file."""
        self._start_something()
        if self.model.attempts:
            name = self._pick(drawn, list(self.model.attempts))
            attempt = self.model.attempts[name]
            position = max(1, self.model.jobs[attempt.job].position + drawn.one_of([10, 10, 10, 10, 5, 0, -5, -5]))
            file = scene.sha(f"{attempt.job} at {position}")
            if drawn.mostly(True, False):
                self.know([file])
            self.checkpoint(name, drawn.mostly(attempt.worker, *WORKERS), file, position)

    def _pick(self, drawn: Drawn, names: list[str]) -> str:
        """An attempt, mostly a live one, and one of a job that got on before."""
        live = [name for name in names if self.model.attempts[name].state in LIVE]
        further = [name for name in live if self.model.jobs[self.model.attempts[name].job].checkpoints]
        return drawn.one_of([*live * 3, *further * 6, *names[-4:]])

    def _attempts_of(self, worker: str) -> list[str]:
        return [name for name, attempt in self.model.attempts.items() if attempt.worker == worker]

    # ---- artifacts ----

    def do_collect(self, drawn: Drawn) -> None:
        """What nobody touched for a while is doomed; it is removed now, or sent again first, or another time."""
        self.know([scene.sha(study) for study in self.model.studies])
        doomed = self.doom(drawn.one_of([0, 0, 60]))
        then = drawn.one_of(["remove", "remove", "send again", "wait"])
        if then == "send again":
            self.know(doomed[:2])
        if then != "wait":
            for sha in doomed:
                self.forget(sha)


def run(engine: Engine, home: Path) -> None:
    """Try sequences of steps. Raises AssertionError with the shortest one that fails."""
    profile = settings(
        max_examples=SWEEP or EXAMPLES,
        stateful_step_count=STEPS_OF_ONE,
        derandomize=not SWEEP,
        database=None,
        deadline=None,
        print_blob=bool(SWEEP),
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    made: Callable[[], Any] = lambda: LifecycleMachine(engine, Settings(home=home))  # noqa: E731
    run_state_machine_as_test(cast(Any, made), settings=profile)


def hunt(engine: Engine, home: Path) -> None:
    """The same steps by a generator's choices, the same ones in every version of Hypothesis; nothing is shortened.

    Raises what the first step that fails raises.
    """
    for seed in range(HUNTS):
        choose = random.Random(seed).choice
        machine = LifecycleMachine(engine, Settings(home=home))
        for _ in range(STEPS_OF_ONE):
            machine.do(choose(WEIGHTED), Drawn(choose))
            machine.check()
