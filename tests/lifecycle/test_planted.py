"""Each planted bug is found, by the detector that its test's id names. Without a bug the detectors pass: they are
`test_machine.py` and `test_claimants.py`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jsm_queue.store.database import open_store
from tests.lifecycle import machine
from tests.lifecycle.planted import BUGS
from tests.lifecycle.test_claimants import race

DETECTORS: dict[str, Callable[[Engine, Path], object]] = {
    "the state machine": machine.hunt,
    "eight claimants": lambda engine, _: race(engine),
}
BY_OTHERS = {"writers do not wait for each other": "eight claimants"}
FOUND = [(bug, BY_OTHERS.get(bug, "the state machine")) for bug in BUGS]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """SQLite: the bugs are in the code above the store."""
    engine = open_store(f"sqlite:///{(tmp_path / 'store.sqlite').as_posix()}")
    yield engine
    engine.dispose()


@pytest.mark.parametrize(("bug", "by"), FOUND, ids=[f"{bug}, found by {by}" for bug, by in FOUND])
def test_a_planted_bug_is_found(engine: Engine, tmp_path: Path, bug: str, by: str) -> None:
    with BUGS[bug](), pytest.raises(Exception) as found:
        DETECTORS[by](engine, tmp_path)
    assert not isinstance(found.value, TypeError | AttributeError | NameError), "the plant itself is broken"
