"""A worker in a real pool: api, Valkey, agent and runner as processes, a small study to its end."""

import json
import platform
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jsm_queue import processes
from jsm_queue.kinds import KINDS
from tests.pool import SHORT, Pool, write_study
from tests.waiting import wait_for

pytestmark = pytest.mark.timeout(400)
TRAINING = {"batch": 1, "max_length": 128, "quantized": False, "r": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's files."""
    return tmp_path_factory.mktemp("study")


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool(tmp_path)
    pool.start_all()
    yield pool
    pool.close()


def submit_long(pool: Pool, folder: Path, epochs: int) -> str:
    """A study whose training takes its time; returns once that has begun."""
    study = pool.submit(write_study(folder, **SHORT, training=TRAINING | {"epochs": epochs}), folder)
    wait_for(lambda: active(pool, study, "train"), "the training")
    return study


def active(pool: Pool, study: str, kind: str) -> bool:
    """Whether a job of that kind is under way and says where it is."""
    return any(j["kind"] == kind and j["state"] == "active" and j["position"] for j in pool.jobs(study))


def slots_free(pool: Pool) -> bool:
    return all(slot["free"] for worker in pool.ask("/workers")["workers"] for slot in worker["slots"])


def test_a_whole_study_ends_with_its_verdicts(pool: Pool, folder: Path) -> None:
    spec = write_study(folder)
    study = pool.submit(spec, folder)
    pool.wait_ended(study)
    assert {job["state"] for job in pool.jobs(study)} == {"done"}
    assert {job["kind"] for job in pool.jobs(study)} == set(KINDS)
    assert list(pool.outcome(study)["decisions"]) == ["scale", "bases", "quantization"]
    wait_for(lambda: slots_free(pool), "a free slot")
    assert not list((pool.home / "agent" / "outbox").iterdir())
    assert not list((pool.home / "agent" / "work").iterdir())
    for part in ("agent", "api"):
        assert "Traceback" not in pool.log(part)
    assert pool.submit(spec, folder) == study


def test_cancelling_a_study_stops_what_runs(pool: Pool, folder: Path) -> None:
    study = submit_long(pool, folder, epochs=1000)
    pool.http.delete(f"/v1/studies/{study}")
    wait_for(lambda: "ended (cancelled)" in pool.log("agent"), "the attempt's end")
    wait_for(lambda: slots_free(pool), "a free slot")
    assert not list((pool.home / "agent" / "work").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_worker_that_is_told_to_end_does_so_at_once(pool: Pool, folder: Path, number: str) -> None:
    study = submit_long(pool, folder, epochs=1000)
    runner = processes.find_leftover(pool.home / "agent" / "slots" / "slot0.pid")
    agent = pool.parts.pop("agent")
    agent.send_signal(getattr(signal, number))
    assert agent.wait(30) == 0
    assert runner and not runner.is_running()
    assert "ended (released)" in pool.log("agent")
    assert "Traceback" not in pool.log("agent")
    [train] = [job for job in pool.jobs(study) if job["kind"] == "train"]
    assert train["state"] == "ready", "another worker may have it at once"
    [worker] = pool.http.get("/v1/workers").json()["workers"]
    assert not worker["live"], "it said goodbye: nobody waits for its lease"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_worker_ends_while_the_api_is_away(pool: Pool, folder: Path) -> None:
    submit_long(pool, folder, epochs=1000)
    pool.kill("api")
    agent = pool.parts.pop("agent")
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(30) == 0
    assert "Traceback" not in pool.log("agent")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_jsm_worker_start_works_and_leaves_no_agent_behind(pool: Pool, folder: Path) -> None:
    own = pool.parts.pop("agent")
    own.send_signal(signal.SIGTERM)
    own.wait(30)
    invite = pool.http.post("/v1/workers/invites").json()["invite"]
    home = pool.home / "other"
    arguments = ["-m", "jsm_queue.cli", "worker", "start", "--api", pool.url, "--home", str(home)]
    starter = pool.start("other", [*arguments, f"--invite={invite}"])
    wait_for(lambda: ": hello" in pool.log("other"), "the hello")
    agent = processes.find_leftover(home / "agent.pid")
    assert agent and agent.pid == starter.pid
    assert invite not in " ".join(agent.cmdline())
    submit_long(pool, folder, epochs=1000)
    starter.send_signal(signal.SIGTERM)
    assert starter.wait(30) == 0
    assert not agent.is_running()
    assert "Traceback" not in pool.log("other")
    assert platform.node() in [worker["name"] for worker in pool.ask("/workers")["workers"]]


def test_a_result_waits_on_the_disk_while_the_api_is_away(pool: Pool, folder: Path) -> None:
    study = submit_long(pool, folder, epochs=6)
    pool.kill("api")
    wait_for(lambda: list((pool.home / "agent" / "outbox").iterdir()), "a result")
    pool.start_api()
    pool.wait_ended(study)
    assert {job["state"] for job in pool.jobs(study)} == {"done"}
    assert not list((pool.home / "agent" / "outbox").iterdir())
    assert pool.log("agent").count(": train begins") == 1, "the finished training was not done again"


def test_a_lost_queue_is_rung_again(pool: Pool, folder: Path) -> None:
    study = pool.submit(write_study(folder, **SHORT), folder)
    wait_for(lambda: any(j["state"] == "done" for j in pool.jobs(study)), "the first result")
    pool.kill("valkey")
    wait_for(lambda: "the queue cannot be reached" in pool.log("api"), "a bell that was not heard")
    pool.start_valkey()
    pool.wait_ended(study)
    assert {job["state"] for job in pool.jobs(study)} == {"done"}


def test_a_home_has_one_agent(pool: Pool) -> None:
    wait_for(lambda: ": hello" in pool.log("agent"), "the first agent")
    second = processes.spawn(
        [sys.executable, "-m", "workers", "--home", str(pool.home / "agent"), "--api", pool.url],
        pool.home / "second.log",
        pool.environment,
    )
    assert second.wait(30) == 3
    assert "already runs" in pool.log("second")
    assert pool.parts["agent"].poll() is None


def test_a_newer_session_of_the_same_worker_ends_the_older(pool: Pool) -> None:
    wait_for(lambda: ": hello" in pool.log("agent"), "the first agent")
    (pool.home / "copy").mkdir()
    shutil.copy(pool.home / "agent" / "identity.json", pool.home / "copy")
    pool.start_agent("copy")
    assert pool.parts["agent"].wait(30) == 6
    assert "superseded" in pool.log("agent")
    assert pool.parts["copy"].poll() is None


def test_a_worker_that_the_pool_does_not_know_joins_anew(pool: Pool) -> None:
    wait_for(lambda: ": hello" in pool.log("agent"), "the first agent")
    invite = pool.http.post("/v1/workers/invites").json()["invite"]
    home = pool.home / "stranger"
    home.mkdir()
    (home / "identity.json").write_text(json.dumps({"worker": "0123abcd", "token": "wrong"}), encoding="utf-8")
    arguments = ["-m", "workers", "--home", str(home), "--api", pool.url]
    refused = pool.start("refused", arguments)
    assert refused.wait(30) == 5
    assert "Traceback" not in pool.log("refused")
    pool.start("stranger", [*arguments, "--invite", invite])
    wait_for(lambda: ": hello" in pool.log("stranger"), "the hello")
    assert len(pool.ask("/workers")["workers"]) == 2


def test_an_agent_without_pool_or_invite_says_what_to_do(tmp_path: Path) -> None:
    arguments = ["--home", str(tmp_path / "home"), "--api", "http://127.0.0.1:1"]
    agent = processes.spawn([sys.executable, "-m", "workers", *arguments], tmp_path / "log")
    assert agent.wait(30) == 3
    said = (tmp_path / "log").read_text(encoding="utf-8")
    assert "has not joined a pool" in said and "Traceback" not in said
