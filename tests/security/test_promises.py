"""`docs/security.md` names a test for each promise, and each of them is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:security|unit|integration|bad_input|lifecycle)/[\w/.:]*)`", TEXT)))


@pytest.mark.parametrize("named", NAMED)
def test_the_test_is_there(named: str) -> None:
    path, _, function = named.partition("::")
    file = ROOT / "tests" / path
    assert file.exists()
    if function:
        assert f"def {function}(" in file.read_text(encoding="utf-8")


def test_every_promise_names_one() -> None:
    promised = TEXT.partition("## What is promised")[2].partition("## What is not promised")[0]
    tables = re.findall(r"\| promise \| attacked by \|\n\|---\|---\|\n((?:\|.*\n)+)", promised)
    rows = [row for table in tables for row in table.splitlines()]
    assert len(rows) > 20
    assert [row for row in rows if not any(f"`{name}`" in row for name in NAMED)] == []
