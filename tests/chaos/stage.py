"""Where scenes are played: what they ask of the store, and what people do in them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from sqlalchemy import update
from sqlmodel import col, select

from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from tests.chaos.pool import ChaosPool, patience
from tests.chaos.puppet import Puppet
from tests.chaos.study import Toy
from tests.chaos.watch import Broken, Watch

WAIT_S = 20.0
TRIES = 30  # grants that are given back until the wanted one comes
DAY_S = 86_400.0

Grant = dict[str, Any]


class Stage:
    """Where scenes are played."""

    def __init__(self, pool: ChaosPool, watch: Watch, toy: Toy) -> None:
        self.pool, self.watch, self.toy = pool, watch, toy
        self.study = str(self.until(lambda: pool.try_submit(toy), "the scenes' submission"))
        self.a, self.b = Puppet(pool, "puppet-a"), Puppet(pool, "puppet-b")

    def clear(self) -> None:
        """Nobody is left, and the study is nobody's."""
        self.user("DELETE", f"/studies/{self.study}")
        for puppet in (self.a, self.b):
            puppet.leave()
            self.user("POST", f"/workers/{puppet.id}/remove")

    # ---- what is seen ----

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """The first true value."""
        deadline = time.monotonic() + patience(WAIT_S)
        while not (found := condition()):
            self.watch.look()
            if time.monotonic() > deadline:
                raise Broken(f"not in time: {what}")
            time.sleep(0.1)
        return found

    def attempt(self, attempt: str) -> t.Attempt:
        """As the store has it."""
        with reading(self.pool.store) as session:
            return session.get_one(t.Attempt, attempt)

    def state(self, attempt: str) -> tuple[str, str | None]:
        """(state, reason)."""
        row = self.attempt(attempt)
        return row.state, row.reason

    def job(self, job: str) -> t.Job:
        """As the store has it."""
        with reading(self.pool.store) as session:
            return session.get_one(t.Job, job)

    def run_state(self, attempt: str) -> str:
        """Of an attempt's run."""
        with reading(self.pool.store) as session:
            return session.get_one(t.Run, session.get_one(t.Attempt, attempt).run).state

    def jobs(self, state: str) -> list[str]:
        """The study's jobs in that state."""
        with reading(self.pool.store) as session:
            listed = select(t.StudyJob.job).where(t.StudyJob.study == self.study)
            return sorted(session.exec(select(t.Job.id).where(t.Job.state == state, col(t.Job.id).in_(listed))))

    def offers(self) -> list[str]:
        """The runs that are offered to anybody."""
        with reading(self.pool.store) as session:
            return list(session.exec(select(t.Run.id).where(t.Run.state == "offered")))

    def lists(self, study: str, job: str) -> bool:
        """Whether a study does."""
        with reading(self.pool.store) as session:
            listing = select(t.StudyJob.job).where(t.StudyJob.study == study, t.StudyJob.job == job)
            return session.exec(listing).first() is not None

    def ticks(self, count: int) -> None:
        """Waits until the coordinator has looked so often."""
        for _ in range(count):
            before = self._tick()
            self.until(lambda before=before: self._tick() > before, "a tick of the coordinator")

    def _tick(self) -> float:
        with reading(self.pool.store) as session:
            counter = session.get(t.Counter, "tick")
            return counter.value if counter else 0.0

    # ---- what people do ----

    def restart_api(self, **environment: str) -> None:
        """Kill it where it runs; waits until it answers."""
        self.pool.kill_part("api", 0)
        self.pool.start_api(**environment)
        self.until(self.pool.answers, "the api")

    def user(self, method: str, path: str, **given: Any) -> Any:
        """A request with the pool's own token."""
        answer = self.pool.http.request(method, f"/v1{path}", **given)
        must(answer.is_success, f"{method} {path}: {answer.text[:200]}")
        return answer.json()

    def crashes(self, puppet: Puppet, job: str, times: int) -> None:
        """A job, and no other, crashes on that worker so often."""
        for _ in range(times):
            grant = self.take(puppet, job)
            ok(puppet.end(grant["attempt"], "crashed"), "an end")
            puppet.rest()

    def take(self, puppet: Puppet, job: str) -> Grant:
        """That job; what else is offered is given back."""
        return self._take(puppet, "job", job)

    def take_kind(self, puppet: Puppet, kind: str) -> Grant:
        """A job of that kind."""
        return self._take(puppet, "kind", kind)

    def _take(self, puppet: Puppet, what: str, wanted: str) -> Grant:
        for _ in range(TRIES):
            grant = puppet.take()
            if grant[what] == wanted:
                return grant
            ok(puppet.end(grant["attempt"], "released"), "an end")
            puppet.rest()
        raise Broken(f"{puppet.name} is not offered {what} {wanted[:12]}")

    def a_day_passes(self, but: set[str]) -> None:
        """For all artifacts but those."""
        with writing(self.pool.store) as session:
            rest = update(t.Artifact).where(col(t.Artifact.sha).not_in(but))
            session.connection().execute(rest.values(touched_at=t.Artifact.touched_at - 2 * DAY_S))


@contextmanager
def told_as(scene: str, say: Callable[[str], object]) -> Iterator[None]:
    """A function's name, in words, stands before what is wrong in it; at its end it is said how long it took."""
    name, began = scene.replace("_", " "), time.monotonic()
    try:
        yield
    except (AssertionError, httpx.HTTPError) as error:
        raise Broken(f"{name}: {error}") from error
    say(f"  {name}: {time.monotonic() - began:.1f} s")


def must(holds: object, what: str) -> None:
    """Raises Broken."""
    if not holds:
        raise Broken(what)


def ok(answer: httpx.Response, what: str) -> httpx.Response:
    """It was taken."""
    must(answer.is_success, f"{what} is refused: {answer.status_code} {answer.text[:200]}")
    return answer


def refused(answer: httpx.Response, what: str, *statuses: int) -> None:
    """With 409, or what is given."""
    must(answer.status_code in (statuses or (409,)), f"{what} is answered {answer.status_code}: {answer.text[:200]}")
