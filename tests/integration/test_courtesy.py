"""A worker whose owner wants the machine back: api, Valkey, agent and runner as processes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jsm_queue import processes
from jsm_queue.cli import courtesy
from jsm_queue.cli.client import upload
from tests.chaos import study
from tests.pool import Pool
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
GAME = "EldenRing.exe"


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """A pool with one slot, kinds of twenty steps of a second each, and the first job under way."""
    pool = Pool(
        tmp_path / "home",
        PYTHONPATH=str(ROOT),
        JSM_COURTESY="yes",
        JSM_COURTESY_PROGRAMS=GAME,
        JSM_COURTESY_QUIET_S="0.5",
    )
    pool.start_core()
    argv = ["--home", str(pool.home / "agent"), "--api", pool.url, "--name", "gamer", "--invite", pool.invite]
    environment = {"CHAOS_STEP_S": "1", "CHAOS_BROKER_PORT": str(pool.ports["valkey"])}
    pool.start("agent", ["-m", "tests.chaos.agent", *argv], **environment)
    toy = study.make(tmp_path / "study", short=True)
    for sha, file in toy.files.items():
        upload(pool.http, sha, file)
    body = {"spec": toy.spec.model_dump(mode="json"), "inputs": toy.inputs.model_dump(mode="json")}
    assert pool.http.post("/v1/studies", json=body).is_success
    wait_for(lambda: runner(pool) and running(pool), "the first job")
    yield pool
    pool.close()


def runner(pool: Pool) -> bool:
    """Whether the slot's runner lives."""
    return processes.find_leftover(pool.home / "agent" / "slots" / "slot0.pid") is not None


def running(pool: Pool) -> list[dict[str, Any]]:
    """The jobs that say where they are."""
    (found,) = pool.ask("/studies")["studies"]
    return [job for job in pool.jobs(found["id"]) if job["state"] == "active" and job["position"]]


def slot(pool: Pool) -> dict[str, Any]:
    (worker,) = pool.ask("/workers")["workers"]
    return worker["slots"][0]


def test_the_owner_gets_the_machine_back_at_once_and_the_job_goes_on_later(
    pool: Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    (before,) = running(pool)
    home = pool.home / "agent"
    assert courtesy.give_back(None, False, home, as_json=True) == 0
    assert not runner(pool)
    wait_for(lambda: slot(pool)["hold"] == "`jsm worker yield` asked for it", "the api to hear of it", 20)
    assert not slot(pool)["free"]
    (found,) = pool.ask("/studies")["studies"]
    wait_for(
        lambda: any(j["id"] == before["id"] and j["state"] == "ready" for j in pool.jobs(found["id"])), "the job", 20
    )
    assert courtesy.give_back(None, True, home, as_json=True) == 0
    wait_for(lambda: runner(pool) and running(pool), "the job to go on")
    (after,) = running(pool)
    assert after["id"] == before["id"] and after["position"] >= before["position"], "it goes on where it was"


def test_a_listed_program_takes_the_machine_and_leaves_it(pool: Pool, tmp_path: Path) -> None:
    game = tmp_path / GAME
    shutil.copy(Path(sys.executable).resolve(), game)
    with subprocess.Popen(
        [game, "-c", "input()"], env=os.environ | {"PYTHONHOME": sys.base_prefix}, stdin=subprocess.PIPE
    ) as p:
        wait_for(lambda: not runner(pool), "the runner's end", 20)
        wait_for(lambda: slot(pool)["hold"] == "eldenring runs", "the api to hear of it", 20)
        p.kill()
    wait_for(lambda: runner(pool) and running(pool), "the worker to come back")
    assert slot(pool)["hold"] is None
