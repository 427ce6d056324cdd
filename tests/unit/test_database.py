"""A store that cannot be opened says what to do."""

import sys
from pathlib import Path

import pytest

from jsm_queue.errors import SetupError
from jsm_queue.store.database import open_store


@pytest.mark.parametrize("url", ["foo", "foo://h/x", "postgresql://u:secret@h:port/x", "sqlite+none:///x"])
def test_what_is_no_databases_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SetupError, match="not the address of a database") as caught:
        open_store(url)
    assert "JSM_DATABASE_URL" in caught.value.fix
    assert "secret" not in str(caught.value)


def test_a_database_without_its_driver_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SetupError, match=r"psycopg.*SQLite"):
        open_store("postgresql+psycopg://u:secret@h/x")


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be opened"):
        open_store(f"sqlite:///{tmp_path.as_posix()}")
