"""Results on the worker's disk: whole or not there, whatever a crash leaves."""

from pathlib import Path

import pytest

from jsm_queue.protocol import ResultRequest
from workers.outbox import Outbox
from workers.runner import RESULT, write_result


def finish(box: Outbox, attempt: str) -> None:
    folder = box.begin(attempt)
    (folder / "inputs").mkdir()
    write_result(folder / "out", ResultRequest(metrics={"seconds": 1.0}))


def test_a_result_moves_by_one_rename(tmp_path: Path) -> None:
    box = Outbox(tmp_path)
    finish(box, "a1a1a1a1")
    assert box.attempts() == []
    box.put("a1a1a1a1")
    box.put("a1a1a1a1")
    assert box.attempts() == ["a1a1a1a1"]
    assert box.read("a1a1a1a1").metrics == {"seconds": 1.0}
    assert not list(box.work.iterdir())
    box.drop("a1a1a1a1")
    box.drop("a1a1a1a1")
    assert not list(box.root.iterdir())


def test_after_a_crash_what_was_finished_is_kept_and_the_rest_removed(tmp_path: Path) -> None:
    box = Outbox(tmp_path)
    finish(box, "a1a1a1a1")
    (box.begin("b2b2b2b2") / "out" / "half.gguf").touch()
    (box.begin("c3c3c3c3") / "out" / f"{RESULT}.part").touch()
    Outbox(tmp_path).recover()
    assert box.attempts() == ["a1a1a1a1"]
    assert not list(box.work.iterdir())


def test_a_second_recovery_changes_nothing(tmp_path: Path) -> None:
    box = Outbox(tmp_path)
    finish(box, "a1a1a1a1")
    box.put("a1a1a1a1")
    finish(box, "a1a1a1a1")
    box.recover()
    box.recover()
    assert box.attempts() == ["a1a1a1a1"]


def test_a_half_removed_result_is_never_sent_and_its_files_go_at_the_next_start(tmp_path: Path) -> None:
    box = Outbox(tmp_path)
    finish(box, "a1a1a1a1")
    box.put("a1a1a1a1")
    (box.root / "a1a1a1a1" / RESULT).unlink()
    (box.root / "a1a1a1a1" / "model.gguf").touch()
    assert box.attempts() == []
    Outbox(tmp_path).recover()
    assert not list(box.root.iterdir())


def test_an_attempt_begins_empty(tmp_path: Path) -> None:
    box = Outbox(tmp_path)
    (box.begin("a1a1a1a1") / "out" / "old").touch()
    assert list((box.begin("a1a1a1a1") / "out").iterdir()) == []


def test_a_damaged_result_is_an_error(tmp_path: Path) -> None:
    box = Outbox(tmp_path)
    finish(box, "a1a1a1a1")
    box.put("a1a1a1a1")
    (box.root / "a1a1a1a1" / RESULT).write_text('{"metrics": {"sec', encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        box.read("a1a1a1a1")
