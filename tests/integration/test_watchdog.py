"""A consumer that is alive and deaf is noticed, and its worker starts anew by itself."""

from pathlib import Path

import pytest
from sqlmodel import select

from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from tests.pool import SHORT, Pool, write_study
from tests.waiting import wait_for
from workers import watchdog

pytestmark = pytest.mark.timeout(180)


def test_a_deaf_worker_starts_anew_and_takes_its_jobs(tmp_path: Path) -> None:
    spec = write_study(tmp_path / "study", **SHORT)
    pool = Pool(tmp_path / "home", JSM_OFFER_S="1")
    try:
        pool.start_core()
        argv = ["--home", str(pool.home / "agent"), "--api", pool.url, "--name", "deaf", "--invite", pool.invite]
        process = pool.start("agent", ["-m", "tests.integration.deaf", *argv])
        pool.submit(spec, tmp_path / "study")

        def accepted() -> list[t.Attempt]:
            with reading(pool.store) as session:
                return list(session.exec(select(t.Attempt).where(t.Attempt.state == "accepted")))

        wait_for(accepted, "a first result")
        with reading(pool.store) as session:
            unclaimed = session.exec(select(t.Attempt).where(t.Attempt.reason == "unclaimed")).all()
        assert len(unclaimed) >= watchdog.DEAF_OFFERS
        assert process.poll() is None, "it is the same process still"
        assert "did not arrive" in pool.log("agent")
    finally:
        pool.close()


def test_a_broker_that_is_away_is_no_deafness() -> None:
    assert watchdog.is_deaf(watchdog.DEAF_OFFERS, lambda: True)
    assert not watchdog.is_deaf(watchdog.DEAF_OFFERS, lambda: False)
    assert not watchdog.is_deaf(watchdog.DEAF_OFFERS - 1, lambda: True)
