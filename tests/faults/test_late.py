"""A worker that was away too long: its attempt is replaced, its late result changes nothing, and it goes on."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jsm_queue import processes
from tests.pool import SHORT, Pool, write_study
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform == "win32", reason="stopping a process"),
]


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool(tmp_path)
    pool.start_all()
    yield pool
    pool.close()


def test_a_worker_that_slept_over_its_lease(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("study")
    training = {"epochs": 4, "batch": 1, "max_length": 128, "quantized": False, "r": 4}
    study = pool.submit(write_study(folder, **SHORT, training=training), folder)
    wait_for(lambda: any(j["kind"] == "train" and j["position"] for j in pool.jobs(study)), "the training")
    asleep = [pool.parts["agent"].pid]
    runner = processes.find_leftover(pool.home / "agent" / "slots" / "slot0.pid")
    assert runner
    for pid in (*asleep, runner.pid):
        processes.psutil.Process(pid).suspend()
    pool.invite = pool.http.post("/v1/workers/invites").json()["invite"]
    pool.start_agent("second")
    wait_for(lambda: any(j["kind"] == "train" and j["state"] == "done" for j in pool.jobs(study)), "the successor")
    before = pool.records(study)
    for pid in (*asleep, runner.pid):
        processes.psutil.Process(pid).resume()
    wait_for(lambda: "dropped" in pool.log("agent") or "ended (cancelled)" in pool.log("agent"), "the late result")
    pool.wait_ended(study)
    assert {job["state"] for job in pool.jobs(study)} == {"done"}
    assert set(before) <= set(pool.records(study))
    assert pool.parts["agent"].poll() is None
    pool.parts["agent"].send_signal(signal.SIGTERM)
    assert pool.parts["agent"].wait(60) == 0
