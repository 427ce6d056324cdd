"""Attempts' logs as files of the api: by offset, so that nothing is twice and nothing has a gap."""

from pathlib import Path

import pytest

from api import attemptlogs
from jsm_queue.errors import ConflictError, NotFoundError

ATTEMPT = "0123456789abcdef" * 2


def test_a_text_is_added_at_its_place(tmp_path: Path) -> None:
    assert attemptlogs.append(tmp_path, ATTEMPT, 0, "堤防\n") == 7
    assert attemptlogs.append(tmp_path, ATTEMPT, 7, "x\n") == 9
    assert attemptlogs.read(tmp_path, ATTEMPT, 0) == ("堤防\nx\n", 9)
    assert attemptlogs.read(tmp_path, ATTEMPT, 7) == ("x\n", 9)
    assert attemptlogs.read(tmp_path, ATTEMPT, 9) == ("", 9)


def test_a_replay_adds_only_what_is_new(tmp_path: Path) -> None:
    attemptlogs.append(tmp_path, ATTEMPT, 0, "one\n")
    assert attemptlogs.append(tmp_path, ATTEMPT, 0, "one\n") == 4
    assert attemptlogs.append(tmp_path, ATTEMPT, 0, "one\ntwo\n") == 8
    assert attemptlogs.append(tmp_path, ATTEMPT, 0, "o") == 8
    assert attemptlogs.read(tmp_path, ATTEMPT, 0) == ("one\ntwo\n", 8)


def test_a_gap_and_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConflictError, match="has 0 bytes, not 1"):
        attemptlogs.append(tmp_path, ATTEMPT, 1, "x")
    monkeypatch.setattr(attemptlogs, "LIMIT", 3)
    with pytest.raises(ConflictError, match="too long"):
        attemptlogs.append(tmp_path, ATTEMPT, 0, "four")
    assert attemptlogs.read(tmp_path, ATTEMPT, 0) is None


def test_a_character_that_a_piece_cuts_comes_whole_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attemptlogs.append(tmp_path, ATTEMPT, 0, "堤防")
    monkeypatch.setattr(attemptlogs, "PIECE", 4)
    assert attemptlogs.read(tmp_path, ATTEMPT, 0) == ("堤", 3)
    assert attemptlogs.read(tmp_path, ATTEMPT, 3) == ("防", 6)


@pytest.mark.parametrize("attempt", ["", "..", "../../etc/passwd", "a" * 31, "A" * 32, "a" * 33, "a" * 32 + "\n"])
def test_what_is_no_id_is_no_path(tmp_path: Path, attempt: str) -> None:
    with pytest.raises(NotFoundError):
        attemptlogs.path(tmp_path, attempt)
