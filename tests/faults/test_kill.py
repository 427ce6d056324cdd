"""Kill any process at a named point, start it again: the same jobs, the same records, the same decisions."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jsm_queue.spec import StudySpec
from tests.pool import SHORT, Pool, crash_at, write_study
from tests.waiting import wait_for

pytestmark = [pytest.mark.timeout(400)]

AGENT = ("claimed", "fetched", "result_written", "before_result_post", "after_result_post")
RUNNER = ("mid_job",)
API = ("plan_commit", "offer_commit", "before_ring", "claim_commit", "accept_commit", "artifact_renamed")


@dataclass(frozen=True)
class Calm:
    """The study, and what comes of it when nothing is killed."""

    folder: Path
    spec: StudySpec
    outcome: dict[str, Any]
    records: list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    folder = tmp_path_factory.mktemp("study")
    spec = write_study(folder, **SHORT)
    pool = Pool(tmp_path_factory.mktemp("calm"))
    try:
        pool.start_all()
        study = pool.submit(spec, folder)
        pool.wait_ended(study)
        return Calm(folder, spec, pool.outcome(study), pool.records(study))
    finally:
        pool.close()


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


def check(pool: Pool, study: str, calm: Calm) -> None:
    assert pool.outcome(study) == calm.outcome
    assert pool.records(study) == calm.records


def died_at(points: Collection[str], folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == sorted(points), "not every point was reached"


def test_calm_records_are_not_empty(calm: Calm) -> None:
    """Else equality with them would mean nothing."""
    assert {state for _, _, state in calm.outcome["jobs"]} == {"done"}
    assert {"nll", "answer", "score", "kl"} <= {name for _, _, name, _ in calm.records}


def test_agent_and_runner_are_killed_at_every_point(pool: Pool, calm: Calm, tmp_path: Path) -> None:
    crashes = crash_at(AGENT + RUNNER, tmp_path / "crashes")
    pool.start_valkey()
    pool.start_api()
    pool.wait_healthy()
    pool.start_agent(**crashes)
    study = pool.submit(calm.spec, calm.folder)
    deaths = run_with_restarts(pool, study, {"agent": lambda: pool.start_agent(**crashes)})
    died_at(AGENT + RUNNER, tmp_path / "crashes")
    assert deaths == len(AGENT), "a runner's death is not its agent's"
    assert "the runner died by SIGKILL" in pool.log("agent")
    check(pool, study, calm)


def test_the_api_is_killed_at_every_point(pool: Pool, calm: Calm, tmp_path: Path) -> None:
    crashes = crash_at(API, tmp_path / "crashes")
    pool.start_valkey()
    pool.start_api()
    pool.wait_healthy()
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
