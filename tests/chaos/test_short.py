"""A short run under faults: nothing is lost, doubled or orphaned, and the decisions are those of a calm run. And two of
the bugs that `python -m tests.chaos.hunt` plants: those that show at once."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.__main__ import plan
from tests.chaos.run import run

SEED, FAULTS = 3, 20


@pytest.mark.timeout(400)
def test_a_study_survives_what_can_go_wrong(tmp_path: Path) -> None:
    said: list[str] = []
    # The scenes, which take another two minutes, are left to `make chaos`.
    short = replace(plan(SEED, FAULTS, "sqlite", short=True), scenes=False, machines=False)
    outcome = run(short, tmp_path, said.append)
    assert not outcome.wrong, "\n".join([*outcome.wrong, *said, f"see {tmp_path}"])
    assert outcome.faults.total() == FAULTS


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("bug", "by"),
    [
        ("accept without touch", "was not touched by the result that names it"),
        ("an upload is not verified", "bytes of another hash"),
    ],
)
def test_a_planted_bug_is_found(tmp_path: Path, bug: str, by: str) -> None:
    planted = replace(plan(SEED, FAULTS, "sqlite", short=True), bug=bug)
    outcome = run(planted, tmp_path, lambda _: None, calm={})
    assert by in "".join(outcome.wrong)
