"""One run of the toy study: undisturbed, to learn its points, or with a death at one of them."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsm_queue.crashpoints import SHORT, marker
from tests import stores
from tests.crashpoints.toy import Toy, ToyPool, outcome, problems, words
from tests.waiting import wait_for

LIMIT_S = 120.0
"""A run takes a few seconds; a machine that is busy with something else may need more."""
RACED = re.compile(r"(?<=commit attempt delivering ).*")
"""Whether the heartbeat that says it comes before the result itself is up to the threads: for some job it does."""


@dataclass(frozen=True)
class Point:
    """Where something dies. `at`: the point's name as the processes know it; `name`: as people do."""

    name: str
    at: str
    victim: str
    database: str = "sqlite"

    @property
    def group(self) -> str:
        """Which process dies, on which database, and at what kind of point of whom."""
        role, _, what, *_ = self.at.split()
        return f"{self.database} {self.victim} {role} {what}"


@dataclass(frozen=True)
class Calm:
    """What comes of the study when nothing dies, and the points that were passed on the way."""

    outcome: dict[str, Any]
    points: list[Point]


@dataclass(frozen=True)
class Trial:
    """What came of a death: `wrong` is empty when the point held. `home`: what the pool left, if it did not."""

    point: Point
    wrong: list[str]
    seconds: float
    home: Path


def run_calmly(toy: Toy, home: Path) -> Calm:
    """The study without a death. Raises AssertionError when even that goes wrong."""
    (home / "crash").mkdir(parents=True)
    pool = ToyPool(toy, home, {"JSM_CRASH_ONCE": str(home / "crash")})
    try:
        study = run_to_its_end(pool)
        wrong = problems(pool, study, None)
        assert not wrong and not pool.deaths, (wrong, pool.deaths)
        passed = (home / "crash" / "passed").read_text(encoding="utf-8").splitlines()
        return Calm(outcome(pool, study), points(passed, words(pool, study, toy)))
    finally:
        pool.close()


def points(passed: list[str], names: dict[str, str]) -> list[Point]:
    """Every death that there is: of the process that passes a point, of Valkey at some, and of the api on Postgres.

    Left out are downloads of what a worker made itself: its own copy may be in its cache by then, or not.
    """
    short = {sha[:SHORT]: name for sha, name in names.items()}
    raced = dict.fromkeys(RACED.sub("*", name) for name in passed)
    named = {at: re.sub(rf"\b[0-9a-f]{{{SHORT}}}\b", lambda found: short.get(found[0], found[0]), at) for at in raced}
    named = {at: name for at, name in named.items() if not re.match(r"agent \w+ download .*/", name)}
    found = [Point(name, at, at.split()[0]) for at, name in named.items()]
    found += [
        Point(f"valkey at {name}", at, "valkey")
        for at, name in named.items()
        if re.search(r"api (before|after) ring|agent (before|after) POST runs/claim", at)
    ]
    return found + [
        Point(f"postgres: {name}", at, "api", "postgres")
        for at, name in named.items()
        if re.match(r"api (before|after) commit", at)
    ]


def try_point(toy: Toy, calm: Calm, point: Point, home: Path) -> Trial:
    """The study with one death. What the pool wrote is kept only where something is wrong."""
    began = time.monotonic()
    try:
        wrong = _try(toy, calm, point, home)
    except Exception as error:  # a trial that cannot be made must not end the others
        wrong = [f"{type(error).__name__}: {error}"]
    if not wrong:
        shutil.rmtree(home, ignore_errors=True)
    return Trial(point, wrong, time.monotonic() - began, home)


def _try(toy: Toy, calm: Calm, point: Point, home: Path) -> list[str]:
    crash = home / "crash"
    crash.mkdir(parents=True)
    environment = {"JSM_CRASH_ONCE": str(crash), "JSM_CRASH_AT": point.at}
    with _database(point.database, home) as url:
        pool = ToyPool(toy, home, environment | ({"JSM_DATABASE_URL": url} if url else {}))
        try:
            study = run_to_its_end(pool, crash / "victim" if point.victim == "valkey" else None)
            if point.victim != "runner" and (crash / marker(point.at)).exists():  # it may have died last of all
                wait_for(lambda: pool.tend() or pool.deaths, "the death to be noticed")
            wrong = problems(pool, study, calm.outcome)
        except AssertionError as error:
            wrong = [str(error)]
        finally:
            pool.close()
    if not (crash / marker(point.at)).exists():
        wrong.append("the point was not reached")
    expected = {} if point.victim == "runner" else {point.victim: 1}  # a runner is its agent's to start again
    return wrong + ([f"what died is {pool.deaths}"] if pool.deaths != expected else [])


def run_to_its_end(pool: ToyPool, victim: Path | None = None) -> str:
    """Start everything, submit, and look after it until all is over. `victim`: where to note who is to die, if Valkey.

    Returns the study's id. Raises AssertionError where it does not end.
    """
    deadline = time.monotonic() + LIMIT_S

    def wait(condition: Callable[[], Any], what: str) -> Any:
        while not (found := condition()):
            pool.tend()
            assert time.monotonic() < deadline, f"not within {LIMIT_S:.0f} s: {what}"
            time.sleep(0.05)
        return found

    pool.start_valkey()
    if victim:
        victim.write_text(str(pool.parts["valkey"].pid), encoding="utf-8")
    pool.start_api()
    wait(pool.is_healthy, "the api")
    study = wait(pool.submitted, "the submission")
    pool.start_agent()
    wait(lambda: pool.is_over(study), f"the study's end ({pool.home})")
    return study


@contextmanager
def _database(kind: str, home: Path) -> Iterator[str | None]:
    """An empty store's URL, copied from one that is at this version's schema; None: SQLite in the home folder."""
    if kind == "sqlite":
        yield None
        return
    with stores.store_url("postgres", home) as url:
        yield url
