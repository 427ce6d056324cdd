"""What befalls real machines one after the other, before the faults: what chance brings seldom to the same place.

Each scene picks an attempt where it stands right, makes one thing go wrong and says what must come of it. Where the
attempt was quicker than the scene, another one is tried.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlmodel import col, select

from jsm_queue.canonical import file_hash
from jsm_queue.kinds import KINDS
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from tests.chaos.faults import Chaos
from tests.chaos.kinds import STEPS
from tests.chaos.pool import WORKERS, patience, tended
from tests.chaos.stage import must, told_as
from tests.chaos.watch import Watch
from tests.disks import fill
from workers.slots import UNSAVED

WAIT_S = 150.0  # for a job of a certain kind to be nearly done
EARLY = 6  # steps of an attempt that is hardly at its end before it hears of a pause
LATE_S = 3.0  # of an attempt that is soon over, and not before the scene begins
TRIES = 5
FINISHES_S = 12.0  # the last steps
DELIVERS_S = 1.0  # from when a result is whole on the disk to when its delivery was tried
DOWNLOADS = 2
FILELESS = [name for name, kind in KINDS.items() if not kind.outputs]
WITH_FILES = [name for name, kind in KINDS.items() if kind.outputs]

Try = Callable[["Machines"], bool]
SCENES: list[Try] = []


def scene(play: Try) -> Try:
    """They are played in their order, each until a try tells something: then it returns True."""
    SCENES.append(play)
    return play


@dataclass
class Machines:
    """A pool of real machines with a study under way."""

    chaos: Chaos
    watch: Watch
    study: str

    def __post_init__(self) -> None:
        self.pool = self.chaos.pool

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """The first true value, while what died is started again. Raises AssertionError."""
        return tended(self.pool, condition, what, time.monotonic() + patience(WAIT_S), self.watch)

    def let_pass(self, seconds: float) -> None:
        """Time, in which the pool is watched."""
        time.sleep(seconds)
        self.watch.look()

    def attempt(self, attempt: str) -> t.Attempt:
        """As the store has it."""
        with reading(self.pool.store) as session:
            return session.get_one(t.Attempt, attempt)

    def running(self, first: int, last: int = STEPS, kinds: Collection[str] = KINDS) -> dict[str, int]:
        """Attempt → position, of those of machines that stand between two steps."""
        query = select(t.Attempt.id, t.Attempt.position).join(t.Worker, col(t.Worker.id) == col(t.Attempt.worker))
        query = query.join(t.Job, col(t.Job.id) == col(t.Attempt.job)).where(col(t.Job.kind).in_(kinds))
        query = query.where(t.Attempt.state == "running", col(t.Worker.name).in_(WORKERS))
        with reading(self.pool.store) as session:
            return dict(session.exec(query.where(t.Attempt.position >= first, t.Attempt.position <= last)).all())

    def pick(self, first: int, last: int = STEPS, kinds: Collection[str] = KINDS) -> tuple[t.Attempt, str]:
        """One of them, and its machine's name."""
        found = self.until(lambda: self.running(first, last, kinds), f"an attempt between the steps {first} and {last}")
        attempt = self.attempt(min(found))
        with reading(self.pool.store) as session:
            return attempt, session.get_one(t.Worker, attempt.worker).name

    def over(self, attempt: str) -> t.Attempt:
        """Once it is."""
        self.until(lambda: self.attempt(attempt).state in ("accepted", "ended"), "an attempt's end")
        return self.attempt(attempt)

    def pick_late(self, kinds: Collection[str] = KINDS) -> tuple[t.Attempt, str]:
        """One that is soon over."""
        first = STEPS - max(2, math.ceil(LATE_S / float(self.pool.environment["CHAOS_STEP_S"])))
        return self.pick(first, min(STEPS - 1, first + 3), kinds)

    @contextmanager
    def alone(self, worker: str) -> Iterator[None]:
        """Nothing is offered to the others meanwhile: nobody takes over what that one had."""
        with reading(self.pool.store) as session:
            others = session.exec(select(t.Worker.id).where(col(t.Worker.name).in_(WORKERS), t.Worker.name != worker))
            ids = list(others)
        for each in ids:
            self.api("POST", f"/workers/{each}/pause")
        yield
        for each in ids:
            self.api("POST", f"/workers/{each}/resume")

    def api(self, method: str, path: str) -> None:
        """A user's request."""
        self.pool.http.request(method, f"/v1{path}").raise_for_status()


@scene
def downloads_are_broken(m: Machines) -> bool:
    """The first ones: every machine fetches what its first job needs."""
    lines = [m.pool.lines[worker, "api"] for worker in WORKERS]
    for line in lines:
        line.corrupt_down = True
    m.until(lambda: sum(not line.corrupt_down for line in lines) >= DOWNLOADS, "downloads")
    for line in lines:
        line.corrupt_down = False
    m.until(lambda: m.running(1), "attempts of real machines")
    cached = [path for worker in WORKERS for path in (m.pool.home / worker).glob("cache/[0-9a-f][0-9a-f]/*")]
    broken = [path.name[:12] for path in cached if _is_broken(path)]
    must(not broken, f"a broken download is kept: {', '.join(broken)}")
    return True


@scene
def a_study_is_paused(m: Machines) -> bool:
    """They stop, with all that they have done."""
    m.until(lambda: m.running(1, EARLY), "attempts of real machines")
    seen, saved = m.running(0), 0
    m.api("POST", f"/studies/{m.study}/pause")
    m.until(lambda: not _live(m), "the end of what a paused study runs")
    for attempt in map(m.attempt, seen):
        if attempt.reason != "released" or UNSAVED in (attempt.message or ""):  # a busy machine may be too slow for it
            continue
        with reading(m.pool.store) as session:
            kept = session.get_one(t.Job, attempt.job).position
        must(kept >= attempt.position, f"it was released at {attempt.position}, and goes on at {kept}")
        saved += attempt.position > 0
    m.api("POST", f"/studies/{m.study}/resume")
    return saved > 0


@scene
def the_broker_forgets(m: Machines) -> bool:
    """It starts anew and knows nobody; no machine does. Its messages are heard again."""
    m.pool.kill_part("valkey", 0)
    m.until(lambda: m.pool.parts["valkey"].poll() is None, "the broker's start")
    began = time.time()
    m.until(lambda: _claimed_since(m, began), "a message after the broker's restart")
    return True


@scene
def a_runner_is_killed(m: Machines) -> bool:
    attempt, worker = m.pick(1, EARLY)
    for runner in m.pool.runners(worker):
        with suppress(psutil.NoSuchProcess):
            runner.kill()
    m.chaos.crashes[attempt.job] = 1
    ended = m.over(attempt.id)
    m.until(lambda: _is_closed(m, attempt.run), "the slot of a runner that was killed to be free")
    return ended.reason == "crashed"


def _is_closed(m: Machines, run: str) -> bool:
    with reading(m.pool.store) as session:
        return session.get_one(t.Run, run).state == "closed"


@scene
def a_machine_dies_with_a_result(m: Machines) -> bool:
    """Whole on its disk and not delivered: it is delivered when the machine starts anew."""
    attempt, worker = m.pick_late()
    line = m.pool.lines[worker, "api"]
    with m.alone(worker):
        line.cut(True)
        finished = _finishes(m, worker, attempt.id)
        m.pool.kill_part(worker, 0)
        line.cut(False)
        return finished and _counts(m, attempt.id)


@scene
def a_gateway_answers_a_result(m: Machines) -> bool:
    """That the api is away, which is no answer of the api: the result is delivered later. One that is records alone, so
    that this is what is answered.
    """
    attempt, worker = m.pick_late(FILELESS)
    line = m.pool.lines[worker, "api"]
    with m.alone(worker):
        line.cut(True)
        line.gateway = True
        line.cut(False)
        finished = _finishes(m, worker, attempt.id)
        m.let_pass(DELIVERS_S)
        line.gateway = False
        return finished and _counts(m, attempt.id)


@scene
def a_result_is_broken_on_its_way(m: Machines) -> bool:
    """One of its files, which is sent again: the job is not to blame."""
    attempt, worker = m.pick_late(WITH_FILES)
    line = m.pool.lines[worker, "api"]
    with m.alone(worker):
        line.cut(True)
        finished = _finishes(m, worker, attempt.id)
        line.corrupt = finished
        line.cut(False)
        told = finished and _counts(m, attempt.id) and not line.corrupt
        line.corrupt = False
        return told


@scene
def a_disk_gets_full(m: Machines) -> bool:
    """A worker's own small one, where the machine lets a test have one. The job is not to blame."""
    attempt, worker = m.pick(1, EARLY)
    if not (m.pool.home / worker).is_mount():
        return True
    filler = fill(m.pool.home / worker)
    ended = m.over(attempt.id)
    filler.unlink()
    must(ended.reason != "error", f"a full disk counts against the job: {ended.message}")
    return ended.reason == "disk"


def play(chaos: Chaos, watch: Watch, study: str, say: Callable[[str], object]) -> None:
    """All scenes. Raises Broken, with the scene's name."""
    machines = Machines(chaos, watch, study)
    for each in SCENES:
        with told_as(each.__name__, say):
            told = any(each(machines) for _ in range(TRIES))
            watch.look(now=True)
            must(told, f"not what must come of it, {TRIES} times")


def _finishes(m: Machines, worker: str, attempt: str) -> bool:
    """Whether its work came to an end and the api has not heard of it: not where the line was cut too late."""
    until, work = time.monotonic() + patience(FINISHES_S), m.pool.home / worker / "work" / attempt
    while (works := work.exists() and attempt not in m.pool.finished(worker)) and time.monotonic() < until:
        m.let_pass(0.05)
    return not works and m.attempt(attempt).state in ("running", "suspect")


def _counts(m: Machines, attempt: str) -> bool:
    """Its result is taken."""
    ended = m.over(attempt)
    must(ended.state == "accepted", f"a whole result is thrown away: {ended.message}")
    return True


def _is_broken(path: Path) -> bool:
    try:
        return file_hash(path) != path.name
    except FileNotFoundError:
        return False


def _live(m: Machines) -> list[str]:
    with reading(m.pool.store) as session:
        return list(session.exec(select(t.Attempt.id).where(col(t.Attempt.state).in_(t.LIVE))))


def _claimed_since(m: Machines, began: float) -> bool:
    with reading(m.pool.store) as session:
        later = select(t.Attempt.id).where(t.Attempt.offered_at > began, col(t.Attempt.started_at).is_not(None))
        return session.exec(later).first() is not None
