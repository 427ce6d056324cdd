"""Redis or Valkey is not there at the start, and goes away midway: everything waits for it, and goes on by itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pool import SHORT, Pool, write_study
from tests.waiting import wait_for

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool(tmp_path / "home")
    yield pool
    pool.close()


def test_valkey_comes_late_and_is_lost_midway(pool: Pool, tmp_path: Path) -> None:
    pool.start_api()
    pool.wait_healthy()
    pool.start_agent()
    study = pool.submit(write_study(tmp_path / "study", **SHORT), tmp_path / "study")
    wait_for(lambda: "the queue cannot be reached" in pool.log("api"), "the api to say that it waits")
    assert {job["state"] for job in pool.jobs(study)} <= {"ready", "waiting", "active"}
    pool.start_valkey()
    wait_for(lambda: sum(job["state"] == "done" for job in pool.jobs(study)) >= 2, "two results")
    pool.kill("valkey")
    wait_for(lambda: pool.log("api").count("the queue cannot be reached") >= 2, "the api to say so again")
    pool.start_valkey()
    pool.wait_ended(study)
    assert {job["state"] for job in pool.jobs(study)} == {"done"}
    assert pool.parts["agent"].poll() is None and pool.parts["api"].poll() is None
