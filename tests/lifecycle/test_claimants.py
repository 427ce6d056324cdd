"""Eight claimants at once on 30 jobs: threads on both databases, processes on Postgres."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from sqlalchemy import Engine

from jsm_queue.store.database import open_store
from tests import stores
from tests.lifecycle import claimants
from tests.lifecycle.claimants import Won

THREADS = 8
PROCESSES = 4  # each opens its own connections; starting one costs a second
ROOT = Path(__file__).parents[2]


def race(engine: Engine) -> list[Won]:
    """All threads begin at once."""
    claimants.prepare(engine)
    start = Barrier(THREADS)

    def claimant() -> Won:
        start.wait()
        return claimants.work(engine)

    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result() for future in [pool.submit(claimant) for _ in range(THREADS)]]


def test_threads_bind_and_accept_each_job_once(engine: Engine) -> None:
    won = race(engine)
    claimants.check(engine, won)
    assert sum(each.refused for each in won), "nobody met anybody: this test tried nothing"


def test_processes_bind_and_accept_each_job_once(tmp_path: Path) -> None:
    with stores.store_url("postgres", tmp_path) as url:
        engine = open_store(url)
        claimants.prepare(engine)
        command = [sys.executable, "-m", "tests.lifecycle.claimants", url]
        started = [
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
            for _ in range(PROCESSES)
        ]
        ends = [(process.communicate(timeout=120), process.returncode) for process in started]
        assert [code for _, code in ends] == [0] * PROCESSES, "".join(errors for (_, errors), _ in ends)
        claimants.check(engine, [Won(**json.loads(said)) for (said, _), _ in ends])
        engine.dispose()
