"""Three machines with homes of their own work at the demo's study. One dies for good in the middle of a training.

Another goes on with that training from the checkpoint that the api has. Run it alone, and see what it says:

    .venv/bin/python -m pytest -s tests/integration/test_study_elsewhere.py
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlmodel import Session, col, select

from jsm_queue import processes
from jsm_queue.spec import StudySpec, read_spec
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from tests.pool import Pool
from tests.waiting import wait_for

pytestmark = pytest.mark.timeout(1200)

RIVER = Path(__file__).parents[2] / "examples" / "river"
NAMES = ("one", "two", "three")
FAR = 4  # steps that are not to be done again
MEASURED = ("seconds", "tokens_per_second", "peak_bytes")


class Elsewhere(Pool):
    """A pool with the real kinds, whose agents send checkpoints at once."""

    def start_agent(self, name: str = "agent", **environment: str) -> processes.Process:
        """Start an agent with a home folder, and an invite, of its own."""
        argv = ["-m", "tests.integration.hasty", "--home", str(self.home / name), "--api", self.url, "--name", name]
        invite = self.http.post("/v1/workers/invites").raise_for_status().json()["invite"]
        return self.start(name, [*argv, "--invite", invite], **environment)

    def kill_machine(self, name: str) -> None:
        """As a power cut: the agent and all that it started."""
        process = self.parts.pop(name)
        processes.kill_tree(process.pid)
        process.wait()


class Broken(NamedTuple):
    """A training whose machine died: the job, the attempt, and up to where the api had its checkpoint."""

    job: str
    attempt: str
    machine: str
    position: int


def demo_study(*stages: str) -> StudySpec:
    """The demo's study with one base, less of everything, and only those stages."""
    spec = read_spec(RIVER / "study.yaml").model_dump(mode="json")
    spec["bases"] = spec["bases"][:1]
    spec["data"] |= {"bench": None, "validation": 10, "test_taught": 5, "test_unseen": 5}
    spec["training"] |= {"epochs": 2, "batch": 4}
    spec["decoding"] |= {"max_new_tokens": 4}
    kept: dict[str, Any] = {
        "scale": {"base": "river-qwen2", "sizes": [16, 64], "seeds": [1]},
        "bases": {"seeds": [1]},
        "quantization": {"keep": 1, "formats": ["F16", "Q8_0"]},
    }
    return StudySpec.model_validate(spec | {"stages": {stage: kept.get(stage) for stage in stages}})


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[Callable[[str], Elsewhere]]:
    """make_pool(name): with its queue and api up."""
    pools: list[Elsewhere] = []

    def make(name: str) -> Elsewhere:
        pool = Elsewhere(tmp_path / name)
        pools.append(pool)
        pool.start_core()
        return pool

    yield make
    for pool in pools:
        pool.close()


def in_training(pool: Pool) -> Broken | None:
    """A training that is far from its end, and of which the api has a checkpoint."""
    rows = select(t.Job, t.Attempt, t.Worker).where(t.Attempt.job == t.Job.id, t.Attempt.worker == t.Worker.id)
    with reading(pool.store) as session:
        for job, attempt, worker in session.exec(rows.where(t.Job.kind == "train", t.Attempt.state == "running")):
            if job.position >= FAR and 3 * attempt.position < 2 * attempt.total:
                return Broken(job.id, attempt.id, worker.name, job.position)
    return None


def results(session: Session, job: str) -> dict[str, Any]:
    """What a job's accepted attempt left: files by role, records, and figures but those of time and memory."""
    refs = session.exec(select(t.ArtifactRef).where(t.ArtifactRef.job == job)).all()
    records = session.exec(select(t.Record).where(t.Record.job == job)).all()
    metrics = session.exec(select(t.Metric).where(t.Metric.job == job)).all()
    return {
        "files": {ref.role: ref.sha for ref in refs},
        "records": sorted((record.item, record.name, record.value) for record in records),
        "metrics": {metric.name: metric.value for metric in metrics if metric.name not in MEASURED},
    }


def trained_and_scored(pool: Pool) -> dict[str, dict[str, Any]]:
    """The results of the trainings and of what was scored with them, by job."""
    with reading(pool.store) as session:
        jobs = session.exec(select(t.Job).where(col(t.Job.kind).in_(["train", "score"]))).all()
        return {job.id: results(session, job.id) for job in jobs}


def test_a_training_whose_machine_died_goes_on_elsewhere(make_pool: Callable[[str], Elsewhere]) -> None:
    pool = make_pool("pool")
    for name in NAMES:
        pool.start_agent(name)
    study = pool.submit(demo_study("scale", "bases", "quantization"), RIVER)
    broken = wait_for(lambda: in_training(pool), f"a training with a checkpoint; {pool.home}", 500)
    assert broken
    pool.kill_machine(broken.machine)
    print(f"killed {broken.machine}: its training {broken.job[:12]} was kept up to step {broken.position}")
    pool.wait_ended(study, 500)
    assert {job["state"] for job in pool.jobs(study)} == {"done"}
    assert all(verdict["decision"] for verdict in pool.ask(f"/studies/{study}/verdicts")["verdicts"])

    with reading(pool.store) as session:
        died = session.get_one(t.Attempt, broken.attempt)
        accepted = session.get_one(t.Attempt, session.get_one(t.Job, broken.job).accepted_attempt)
        successor = session.get_one(t.Worker, accepted.worker)
        assert (died.state, died.reason) == ("ended", "lost") and successor.name != broken.machine
        assert accepted.provenance and accepted.provenance["resumed_from"] >= broken.position > 0
        print(f"{successor.name} went on from step {accepted.provenance['resumed_from']} of {accepted.total}")

    calm = make_pool("calm")
    calm.start_agent("one")
    calm.wait_ended(calm.submit(demo_study("scale"), RIVER), 500)
    undisturbed, disturbed = trained_and_scored(calm), trained_and_scored(pool)
    assert broken.job in undisturbed, "the same jobs"
    for job, result in undisturbed.items():
        assert disturbed[job] == result, "adapter, losses and scores are those of a training that nothing broke off"
