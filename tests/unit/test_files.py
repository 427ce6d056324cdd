"""Files are there whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from jsm_queue import files
from jsm_queue.files import publish, write_secret, write_whole


def test_text_and_bytes_are_written_as_they_are_and_nothing_else_stays(tmp_path: Path) -> None:
    assert write_whole(tmp_path / "new" / "text", "川\n").read_bytes() == "川\n".encode()
    assert write_whole(tmp_path / "new" / "text", b"a\r\nb\n").read_bytes() == b"a\r\nb\n"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["text"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    write_whole(tmp_path / "text", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "text", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("text", "old")]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")
def test_a_secret_is_its_owners_alone(tmp_path: Path) -> None:
    assert stat.S_IMODE(write_secret(tmp_path / "token", "x").stat().st_mode) == 0o600


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "partial").write_bytes(b"data")
    path, seen = tmp_path / "a" / "whole", list[str]()
    monkeypatch.setattr(os, "fsync", lambda _: seen.append("named" if path.exists() else "not named"))
    monkeypatch.setattr(files, "_sync_folder", lambda folder: seen.append(f"{folder.name} {path.exists()}"))
    assert publish(tmp_path / "partial", path).read_bytes() == b"data"
    assert seen == ["not named", "a True"]
