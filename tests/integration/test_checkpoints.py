"""What is wished of a running attempt reaches its runner, and what was done by then is not done again elsewhere."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlmodel import Session, select

from jsm_queue import lifecycle, processes
from jsm_queue.cli import backup
from jsm_queue.settings import Settings
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from tests.crashpoints import toy
from tests.crashpoints.toy import Toy, ToyPool, outcome
from tests.waiting import wait_for

pytestmark = pytest.mark.timeout(400)

STEP_S = "0.3"


class Pool(ToyPool):
    """A toy pool whose kinds take steps."""

    def start_agent(self, name: str = "agent", **environment: str) -> processes.Process:
        """Start an agent with a home of its own."""
        argv = ["-m", "tests.integration.stepping", "--home", str(self.home / name), "--api", self.url, "--name", name]
        if not (self.home / name / "identity.json").exists():
            argv += [f"--invite={self.http.post('/v1/workers/invites').json()['invite']}"]
        return self.start(name, argv, **environment)

    def training(self) -> tuple[str, int] | None:
        """(attempt, position) of the training that is under way."""
        with reading(self.store) as session:
            running = select(t.Attempt).join(t.Job).where(t.Job.kind == "train", t.Attempt.state == "running")
            found = session.exec(running).first()
            return (found.id, found.position) if found and found.position >= 2 else None

    def wait_training(self) -> tuple[str, int]:
        """The same, once there is one."""
        found = wait_for(self.training, f"the training; {self.home}")
        assert found
        return found

    def has_worker(self) -> bool:
        """Whether somebody joined."""
        with reading(self.store) as session:
            return session.exec(select(t.Worker)).first() is not None

    def attempt(self, attempt: str) -> t.Attempt:
        with reading(self.store) as session:
            return session.get_one(t.Attempt, attempt)

    def set_worker(self, name: str, state: str) -> None:
        """As a person does who pauses or drains a worker."""

        def change(session: Session) -> None:
            worker = session.exec(select(t.Worker).where(t.Worker.name == name)).one()
            lifecycle.set_worker_state(session, worker, state, time.time())

        with writing(self.store) as session:
            change(session)

    def runner(self, name: str) -> psutil.Process | None:
        return processes.find_leftover(self.home / name / "slots" / "slot0.pid")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toy.make(tmp_path_factory.mktemp("study"))


@pytest.fixture
def make_pool(study: Toy, tmp_path: Path) -> Iterator[Callable[[str], Pool]]:
    """pool(name): with its api up and the study submitted."""
    pools: list[Pool] = []

    def make(name: str) -> Pool:
        pool = Pool(study, tmp_path / name, {"JSM_LEASE_S": "60"})
        pools.append(pool)
        pool.start_core()
        return pool

    yield make
    for pool in pools:
        pool.close()


def submit(pool: Pool) -> str:
    study = pool.submitted()
    assert study
    return study


def wait_over(pool: Pool, study: str) -> dict[str, Any]:
    wait_for(lambda: pool.state(study) == "ended", f"the study's end; {pool.home}", 200)
    return outcome(pool, study)


def test_a_drained_workers_training_goes_on_elsewhere(make_pool: Callable[[str], Pool]) -> None:
    pool = make_pool("pool")
    study = submit(pool)
    pool.start_agent("one", CHAOS_STEP_S=STEP_S)
    attempt, position = pool.wait_training()
    runner = pool.runner("one")
    assert runner
    pool.set_worker("one", "draining")
    wait_for(lambda: not runner.is_running(), "the runner's end")
    wait_for(lambda: pool.attempt(attempt).reason == "released", "the attempt's end")
    with reading(pool.store) as session:
        job = session.get_one(t.Job, pool.attempt(attempt).job)
        assert job.position >= position and job.checkpoint and job.charges == 0
    pool.start_agent("two")
    disturbed = wait_over(pool, study)
    said = (pool.home / "two" / "logs" / "slot0.log").read_text(encoding="utf-8")
    assert f"it goes on from {job.position}" in said
    calm = make_pool("calm")
    again = submit(calm)
    calm.start_agent("one")
    assert wait_over(calm, again) == disturbed, "it ended as if nothing had been broken off"


def test_wishes_reach_a_running_attempt(make_pool: Callable[[str], Pool]) -> None:
    pool = make_pool("pool")
    study = submit(pool)
    agent = pool.start_agent("one", CHAOS_STEP_S=STEP_S)
    attempt, _ = pool.wait_training()
    runner = pool.runner("one")

    pool.set_worker("one", "paused")
    wait_for(lambda: pool.attempt(attempt).paused, "the pause")
    pool.set_worker("one", "active")
    wait_for(lambda: not pool.attempt(attempt).paused, "that it goes on")
    assert runner and runner.is_running()

    pool.http.post(f"/v1/studies/{study}/pause")
    wait_for(lambda: not runner.is_running(), "the runner's end")
    wait_for(lambda: pool.attempt(attempt).reason == "released", "the release")
    pool.http.post(f"/v1/studies/{study}/resume")
    second, position = pool.wait_training()
    said = (pool.home / "one" / "logs" / "slot0.log").read_text(encoding="utf-8")
    assert re.search(r"it goes on from \d+", said) and position >= 2

    pool.http.delete(f"/v1/studies/{study}")
    wait_for(lambda: pool.attempt(second).reason == "cancelled", "the cancel")
    job = pool.attempt(second).job
    wait_for(lambda: not (pool.home / "one" / "checkpoints" / job).exists(), "that its checkpoints go")
    assert agent.poll() is None and "Traceback" not in pool.log("one")


def test_a_killed_agents_successor_goes_on_from_its_own_disk(make_pool: Callable[[str], Pool]) -> None:
    pool = make_pool("pool")
    study = submit(pool)
    pool.start_agent("one", CHAOS_STEP_S=STEP_S)
    attempt, _ = pool.wait_training()
    pool.set_worker("one", "paused")
    wait_for(lambda: pool.attempt(attempt).paused, "the pause")
    kept = [file.name for file in (pool.home / "one" / "checkpoints" / pool.attempt(attempt).job).iterdir()]
    pool.kill("one")
    pool.set_worker("one", "active")
    pool.start_agent("one")
    wait_over(pool, study)
    newest = max(int(name.partition(".")[0]) for name in kept)
    said = (pool.home / "one" / "logs" / "slot0.log").read_text(encoding="utf-8")
    assert f"it goes on from {newest}" in said
    assert not list((pool.home / "one" / "checkpoints").iterdir())


def slow_study(make_pool: Callable[[str], Pool], monkeypatch: pytest.MonkeyPatch) -> tuple[Pool, str]:
    """A pool whose store `backup` finds, and its study: at a second a step the training would take a minute."""
    pool = make_pool("pool")
    monkeypatch.setattr(backup, "settings", lambda: Settings(home=pool.home))
    study = submit(pool)
    pool.start_agent("one", CHAOS_STEP_S="1")
    return pool, study


def restore(kept: Path) -> None:
    backup.restore(next(kept.glob("store-*.sqlite")), yes=True, as_json=True)


def test_what_a_restored_store_does_not_know_makes_room_and_goes_on_where_it_was(
    make_pool: Callable[[str], Pool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, study = slow_study(make_pool, monkeypatch)
    wait_for(pool.has_worker, "the worker")
    pool.set_worker("one", "paused")
    backup.backup(tmp_path / "kept", as_json=True)
    pool.set_worker("one", "active")
    first, _ = pool.wait_training()
    job = pool.attempt(first).job
    restore(tmp_path / "kept")
    pool.set_worker("one", "active")
    second, _ = pool.wait_training()
    assert second != first and pool.attempt(second).job == job
    said = (pool.home / "one" / "logs" / "slot0.log").read_text(encoding="utf-8")
    assert re.search(r"it goes on from \d+", said)
    assert "the restored store does not know it" in pool.log("one") and "Traceback" not in pool.log("one")
    pool.http.delete(f"/v1/studies/{study}")


def test_what_a_restored_store_knows_goes_on(
    make_pool: Callable[[str], Pool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, study = slow_study(make_pool, monkeypatch)
    attempt, position = pool.wait_training()
    backup.backup(tmp_path / "kept", as_json=True)
    restore(tmp_path / "kept")
    wait_for(lambda: "The store was restored" in pool.log("one"), "the worker to hear of it")
    wait_for(lambda: pool.attempt(attempt).position > position + 1 or pool.attempt(attempt).reason, "it to go on")
    assert (pool.attempt(attempt).state, pool.attempt(attempt).reason) == ("running", None)
    assert pool.training(), "nothing else runs in its place"
    pool.http.delete(f"/v1/studies/{study}")
