"""Kill any process at a named point, start it again: the same jobs, the same records, the same decisions."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from jsm_queue.crashpoints import marker
from tests.faults.calm import Calm, check
from tests.pool import Pool, crash_at
from tests.waiting import wait_for

pytestmark = [pytest.mark.timeout(400)]

AGENT = (
    "agent after POST runs/claim *",
    "agent before line *",
    "agent before rename outbox *",
    "agent before POST attempts/result *",
    "agent after POST attempts/result *",
)
RUNNER = ("runner before event progress *",)
API = (
    "api before commit job ready *",
    "api before commit attempt offered *",
    "api before ring *",
    "api before commit attempt running *",
    "api before commit job done *",
    "api after rename *",
)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool(tmp_path)
    yield pool
    pool.close()


def run_with_restarts(pool: Pool, study: str, start: dict[str, Callable[[], object]]) -> int:
    """Until the study ends, start again whatever dies. Returns how often that was needed."""
    deaths = 0

    def ended() -> bool:
        nonlocal deaths
        for name, restart in start.items():
            if pool.parts[name].poll() is not None:
                deaths += 1
                restart()
        return pool.state(study) == "ended"

    wait_for(ended, "the study's end", 380)
    return deaths


def died_at(points: Collection[str], folder: Path) -> None:
    assert {marker(point) for point in points} <= {file.name for file in folder.iterdir()}, "a point was not reached"


def test_calm_records_are_not_empty(calm: Calm) -> None:
    """Else equality with them would mean nothing."""
    assert {state for _, _, state in calm.outcome["jobs"]} == {"done"}
    assert {"nll", "answer", "score", "kl"} <= {name for _, _, name, _ in calm.records}


def test_agent_and_runner_are_killed_at_every_point(pool: Pool, calm: Calm, tmp_path: Path) -> None:
    crashes = crash_at(AGENT + RUNNER, tmp_path / "crashes")
    pool.start_core()
    pool.start_agent(**crashes)
    study = pool.submit(calm.spec, calm.folder)
    deaths = run_with_restarts(pool, study, {"agent": lambda: pool.start_agent(**crashes)})
    died_at(AGENT + RUNNER, tmp_path / "crashes")
    assert deaths == len(AGENT), "a runner's death is not its agent's"
    assert "the runner died by SIGKILL" in pool.log("agent")
    check(pool, study, calm)


def test_the_api_is_killed_at_every_point(pool: Pool, calm: Calm, tmp_path: Path) -> None:
    crashes = crash_at(API, tmp_path / "crashes")
    pool.start_core()
    study = pool.submit(calm.spec, calm.folder)  # the uploads, too, would otherwise meet the points
    pool.kill("api")
    pool.start_api(**crashes)
    pool.start_agent()
    deaths = run_with_restarts(pool, study, {"api": lambda: pool.start_api(**crashes)})
    died_at(API, tmp_path / "crashes")
    assert deaths == len(API)
    check(pool, study, calm)


def test_everything_is_killed_at_once_in_the_middle(pool: Pool, calm: Calm) -> None:
    pool.start_all()
    study = pool.submit(calm.spec, calm.folder)
    for done in (2, 5, 8):
        wait_for(lambda d=done: sum(j["state"] == "done" for j in pool.jobs(study)) >= d, f"{done} results")
        for part in ("valkey", "api", "agent"):
            pool.kill(part)
        pool.start_all()
    pool.wait_ended(study)
    check(pool, study, calm)
