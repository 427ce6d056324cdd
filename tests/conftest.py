"""Settings of every test run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine

from jsm_queue.store.database import open_store
from tests import stores

# Timing is checked by benchmarks, never by a test: a slow machine must not turn one red.
settings.register_profile("jsm", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("jsm")


@pytest.fixture(params=stores.DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store; the test runs once on SQLite and once on Postgres."""
    with stores.store_url(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An empty store, open; the test runs once on SQLite and once on Postgres."""
    engine = open_store(database_url)
    yield engine
    engine.dispose()
