"""One run of the study under faults, and the calm one that it is compared with."""

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlmodel import select

from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from tests import stores
from tests.chaos import machines, scenes, verify
from tests.chaos import study as studies
from tests.chaos.faults import Chaos, inject
from tests.chaos.pool import WORKERS, ChaosPool, patience, tended
from tests.chaos.watch import Watch

CALM_S = 240.0
SETTLE_S = 150.0  # from the last fault and the study's end to when nothing is under way
DISK = "size=24m"  # of a worker


@dataclass(frozen=True)
class Plan:
    """What a run is to be: which faults fall is up to the seed. `step_s`: of each job's steps, `every_s`: of faults.

    `exact`: so many faults, or fewer where the study ends before. `scenes`, `machines`: are theirs played first?
    `bug`: one to plant.
    """

    seed: int
    faults: int
    database: str
    short: bool
    step_s: float
    every_s: float
    limit_s: float
    exact: bool = True
    scenes: bool = True
    machines: bool = True
    bug: str = ""


@dataclass(frozen=True)
class Outcome:
    """`wrong` is empty when everything held."""

    jobs: int
    faults: Counter[str]
    attempts: Counter[str]
    deaths: int
    resumed: int
    seconds: float
    wrong: list[str]


@dataclass
class Course:
    """One run as it goes. `began`: by the monotonic clock; `fallen`: faults so far."""

    plan: Plan
    chaos: Chaos
    watch: Watch
    say: Callable[[str], object]
    began: float
    fallen: Counter[str] = field(default_factory=Counter)


def run(plan: Plan, folder: Path, say: Callable[[str], object], calm: dict[str, Any] | None = None) -> Outcome:
    """The calm study, unless it is known what comes of it; scenes; then the same study under faults.

    The first thing that is wrong ends it.
    """
    toy = studies.make(folder / "study", plan.short)
    if calm is None:
        calm = run_calmly(toy, folder / "calm")
        say(f"calm: {len(calm['jobs'])} jobs")
    with _database(plan.database) as (url, server), _disks(folder / "home"):
        pool = ChaosPool(folder / "home", url, plan.step_s, plan.bug)
        chaos = Chaos(pool, random.Random(plan.seed), server)
        course = Course(plan, chaos, Watch(pool), say, time.monotonic())
        wrong: list[str] = []
        try:
            wrong = _play(course, toy, calm)
        except AssertionError as error:
            wrong = [str(error)]
        finally:
            wrong += chaos.wrong
            pool.heal()
            jobs, attempts, resumed = _figures(pool.store)
            wrong += pool.leave() if not wrong else pool.abandon()
        return Outcome(jobs, course.fallen, attempts, pool.deaths, resumed, time.monotonic() - course.began, wrong)


def _play(course: Course, toy: studies.Toy, calm: dict[str, Any]) -> list[str]:
    pool, deadline = course.chaos.pool, course.began + course.plan.limit_s
    pool.start_core()
    if course.plan.scenes:
        scenes.play(pool, course.watch, studies.scenes(toy, "scenes"), course.say)
    pool.start_workers()
    study = str(tended(pool, lambda: pool.try_submit(toy), "the submission", deadline, course.watch))
    if course.plan.machines:
        machines.play(course.chaos, course.watch, study, course.say)
    return _fall(course, study) + _settle(course, study, calm)


def run_calmly(toy: studies.Toy, home: Path) -> dict[str, Any]:
    """What comes of the study when nothing goes wrong, with steps that take no time."""
    pool = ChaosPool(home, None, 0.0)
    try:
        pool.start_everything()
        deadline = time.monotonic() + patience(CALM_S)
        study = str(tended(pool, lambda: pool.try_submit(toy), "the calm submission", deadline))
        tended(pool, lambda: pool.study_state(study) == "ended", "the calm study's end", deadline)
        return verify.outcome(pool, study)
    finally:
        pool.leave()


def _fall(course: Course, study: str) -> list[str]:
    """The faults, one after the other, while the study runs."""
    plan, chaos, began = course.plan, course.chaos, course.began
    next_at, looked_at, state = time.monotonic(), 0.0, "running"
    while (total := course.fallen.total()) < plan.faults and not chaos.wrong:
        if time.monotonic() - looked_at > 2:
            looked_at, state = time.monotonic(), chaos.pool.study_state(study)
        if state == "ended":
            few = f"the study ended after {total} faults: give its jobs longer steps"
            return [few] if plan.exact else []
        if time.monotonic() >= next_at:
            name, did = inject(chaos)
            course.fallen[name] += 1
            course.say(f"{time.monotonic() - began:6.1f} s  {total + 1:3}  {name}  {did}")
            next_at = time.monotonic() + chaos.rng.expovariate(1 / plan.every_s)
        chaos.due()
        chaos.pool.tend()
        course.watch.look()
        assert time.monotonic() < began + plan.limit_s, f"only {total} faults in {plan.limit_s:.0f} s"
        time.sleep(0.05)
    return []


def _settle(course: Course, study: str, calm: dict[str, Any]) -> list[str]:
    """No fault is left; all must end by itself."""
    pool, watch = course.chaos.pool, course.watch
    course.chaos.due(everything=True)
    pool.heal()
    deadline = time.monotonic() + patience(SETTLE_S) + 60 * float(pool.environment["CHAOS_STEP_S"]) * 5
    tended(pool, lambda: pool.study_state(study) == "ended", "the study's end", deadline, watch)
    tended(pool, lambda: not _busy(pool), "an end of everything under way", deadline, watch)
    watch.look(now=True)
    return verify.problems(pool, verify.outcome(pool, study), calm)


def _busy(pool: ChaosPool) -> bool:
    with reading(pool.store) as session:
        return bool(verify.under_way(session)) or any(verify.leftovers(pool.home / worker) for worker in WORKERS)


def _figures(store: Engine) -> tuple[int, Counter[str], int]:
    """Jobs done, attempts by how they ended, results that went on from a checkpoint."""
    with reading(store) as session:
        jobs = len(session.exec(select(t.Job.id).where(t.Job.state == "done")).all())
        ends = Counter(reason or state for state, reason in session.exec(select(t.Attempt.state, t.Attempt.reason)))
        accepted = session.exec(select(t.Attempt.provenance).where(t.Attempt.state == "accepted")).all()
        resumed = sum("resumed_from" in (provenance or {}) for provenance in accepted)
    return jobs, ends, resumed


@contextmanager
def _database(kind: str) -> Iterator[tuple[str | None, Any]]:
    """(URL, server) of a Postgres of the run's own; nothing for SQLite."""
    if kind == "sqlite":
        yield None, None
        return
    server = stores.start_postgres()
    try:
        yield server.get_uri(), server
    finally:
        server.ensure_postgres_running()
        server.cleanup()


@contextmanager
def _disks(home: Path) -> Iterator[None]:
    """A small disk for each of the workers, where this user may mount one; else no disk gets full."""
    mounted = []
    for worker in WORKERS:
        folder = home / worker
        folder.mkdir(parents=True)
        if sys.platform == "linux":
            command = ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(folder)]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                mounted.append(folder)
    try:
        yield
    finally:
        for folder in mounted:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
