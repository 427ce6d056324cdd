"""A death at one point of each kind, of each process; `make crashpoints` has them all."""

from pathlib import Path

import pytest

from tests.crashpoints import toy
from tests.crashpoints.sweep import sample, sweep
from tests.crashpoints.toy import Toy
from tests.crashpoints.trial import Calm, Point, run_calmly, try_point

SEED = 1

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toy.make(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def calm(study: Toy, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    return run_calmly(study, tmp_path_factory.mktemp("calm") / "home")


def test_the_study_has_eight_jobs_and_a_verdict(calm: Calm) -> None:
    kinds = sorted(kind for _, kind, _ in calm.outcome["jobs"])
    assert kinds == ["prepare", *["score"] * 5, "train", "train"]
    [(stage, _, decision)] = calm.outcome["decisions"]
    assert stage == "scale" and b'"n":16,' in decision and b'"status":"decided"' in decision
    assert len(calm.outcome["files"]) == 11 and calm.outcome["records"]


def test_every_job_has_its_points(calm: Calm) -> None:
    names = {point.name for point in calm.points}
    jobs = ["prepare", "train n=8", "train n=16", "score untrained validation", "score untrained test"]
    for job in [*jobs, "score n=8 validation", "score n=16 validation", "score n=16 test"]:
        for point in (
            f"api before commit attempt offered {job}",
            f"valkey at api after ring {job}",
            f"agent before line {job}",
            f"runner after rename result.json {job}",
            f"runner before rename 1.0.checkpoint {job}",
            f"agent after rename outbox {job}",
            f"agent before POST attempts/result {job}",
            f"postgres: api after commit attempt running {job}",
        ):
            assert point in names
    for file in ("prepare/test", "train n=8/adapter_model"):
        assert {f"agent amid upload {file}", f"api after append {file}", f"api after commit finish {file}"} <= names
    assert {f"agent {moment} download pairs.jsonl" for moment in ("before", "amid", "after")} <= names


def test_a_sample_of_the_points_holds(study: Toy, calm: Calm, tmp_path: Path) -> None:
    chosen = sample(calm.points, SEED)
    assert {point.victim for point in chosen} == {"api", "agent", "runner", "valkey"}
    trials = list(sweep(study, calm, chosen, tmp_path))
    assert {trial.point.name: trial.wrong for trial in trials if trial.wrong} == {}
    assert len(trials) == len(chosen)


def test_a_point_that_nobody_passes_does_not_hold(study: Toy, calm: Calm, tmp_path: Path) -> None:
    trial = try_point(study, calm, Point("nowhere", "api before lunch", "api"), tmp_path / "home")
    assert trial.wrong == ["the point was not reached", "what died is {}"]
