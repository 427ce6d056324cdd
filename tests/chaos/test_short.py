"""A short run under faults: nothing is lost, doubled or orphaned, and the decisions are those of a calm run."""

from pathlib import Path

import pytest

from tests.chaos.__main__ import plan
from tests.chaos.run import run

SEED, FAULTS = 3, 20


@pytest.mark.timeout(400)
def test_a_study_survives_what_can_go_wrong(tmp_path: Path) -> None:
    said: list[str] = []
    outcome = run(plan(SEED, FAULTS, "sqlite", short=True), tmp_path, said.append)
    assert not outcome.wrong, "\n".join([*outcome.wrong, *said, f"see {tmp_path}"])
    assert outcome.faults.total() == FAULTS
