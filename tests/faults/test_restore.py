"""The store is restored while a study runs: the worker says hello again by itself, and the study ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jsm_queue.cli import backup
from jsm_queue.settings import Settings
from tests.pool import SHORT, Pool, write_study
from tests.waiting import wait_for

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    pool = Pool(tmp_path / "home")
    monkeypatch.setattr(backup, "settings", lambda: Settings(home=pool.home))
    pool.start_all()
    yield pool
    pool.close()


def test_a_restore_in_the_middle_of_a_study(pool: Pool, tmp_path: Path) -> None:
    study = pool.submit(write_study(tmp_path / "study", **SHORT), tmp_path / "study")

    def done() -> int:
        return sum(job["state"] == "done" for job in pool.jobs(study))

    wait_for(lambda: done() >= 2, "two results")
    backup.backup(tmp_path / "kept", as_json=True)
    kept = done()
    wait_for(lambda: done() >= kept + 2, "two more results")
    backup.restore(next((tmp_path / "kept").glob("store-*.sqlite")), yes=True, as_json=True)
    pool.wait_ended(study)
    assert {job["state"] for job in pool.jobs(study)} == {"done"}
    assert "the store was restored" in pool.log("agent").lower()
    assert pool.parts["agent"].poll() is None
