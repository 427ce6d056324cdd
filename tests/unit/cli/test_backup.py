"""Backup and restore on both databases, and between them."""

import json
import os
import shutil
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import SQLModel, select
from typer.testing import CliRunner

from jsm_queue import lifecycle, protocol
from jsm_queue.artifacts import path_of
from jsm_queue.cli import backup, main
from jsm_queue.errors import EpochError, SetupError
from jsm_queue.kinds import JobDraft
from jsm_queue.planner import Cell, Wanted
from jsm_queue.settings import Settings
from jsm_queue.store import looks, queries
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, reading, writing
from tests.unit.studies import inputs, spec

JOBS = [JobDraft("convert", {"x": i}) for i in range(3)]
DATA = b"a model"
SHA = "9bd7a5f4ec03d9b5ab8a3bfd2b9f1c5a46b2a5d3a0d6b2d8a3f9e6c1d4e2f7ab"


@pytest.fixture
def home(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder whose store the commands use."""
    monkeypatch.setattr(backup, "settings", lambda: Settings(home=tmp_path / "home", database_url=database_url))
    return tmp_path / "home"


def hello(engine: Engine, boot: str) -> None:
    hardware = protocol.Hardware(hardware_class="A", os="x", cpu="x", cores=1, memory_bytes=1)
    slots = [protocol.SlotReport(idx=0, kind="cpu", device="cpu", vram_free=1, free=True)]
    with writing(engine) as session:
        request = protocol.HelloRequest(boot_id=boot, hardware=hardware, slots=slots)
        lifecycle.hello(session, session.get_one(t.Worker, "w"), request, 60.0, 1.0)


def fill(engine: Engine, home: Path) -> str:
    """A study, a worker, an artifact with its file. Returns the study's id."""
    toy = spec()
    with writing(engine) as session:
        study, _ = lifecycle.add_study(session, toy.model_dump(mode="json"), inputs(toy).model_dump(mode="json"), 0.0)
        lifecycle.list_jobs(session, study.id, [Wanted("bases", Cell("bases", "a"), job) for job in JOBS], 0.0)
        session.add(t.Worker(id="w", name="日本語", token_hash="h", joined_at=0))
        lifecycle.know(session, SHA, len(DATA), 0.0)
    path_of(home / "artifacts", SHA).parent.mkdir(parents=True)
    path_of(home / "artifacts", SHA).write_bytes(DATA)
    hello(engine, "b0" * 16)
    return study.id


def everything(engine: Engine) -> dict[str, list[tuple]]:
    with reading(engine) as session:
        return {
            table.name: sorted(tuple(map(str, row)) for row in session.connection().execute(table.select()).all())
            for table in SQLModel.metadata.sorted_tables
        }


def only_store(folder: Path) -> Path:
    (store,) = folder.glob("store-*.sqlite")
    return store


def test_what_came_after_the_backup_is_gone_and_what_it_held_is_back(
    home: Path, engine: Engine, tmp_path: Path
) -> None:
    study = fill(engine, home)
    before = everything(engine)
    backup.backup(tmp_path / "kept", as_json=True)
    with writing(engine) as session:
        lifecycle.cancel_study(session, session.get_one(t.Study, study), 5.0)
        session.add(t.Worker(id="later", name="later", token_hash="x", joined_at=0))
    path_of(home / "artifacts", SHA).unlink()
    backup.restore(only_store(tmp_path / "kept"), yes=True, as_json=True)
    after = everything(engine)
    for table in before.keys() - {"worker", "event", "counter"}:
        assert after[table] == before[table], table
    assert len(after["worker"]) == 1
    assert path_of(home / "artifacts", SHA).read_bytes() == DATA
    with reading(engine) as session:
        numbers = sorted(session.exec(select(t.Event.seq)))
        assert numbers == list(range(1, len(numbers) + 1))
        assert session.get_one(t.Event, numbers[-1]).what == "store restored"


def test_a_worker_of_the_old_epoch_is_told_to_say_hello_again(home: Path, engine: Engine, tmp_path: Path) -> None:
    fill(engine, home)
    backup.backup(tmp_path / "kept", as_json=True)
    backup.restore(only_store(tmp_path / "kept"), yes=True, as_json=True)
    with reading(engine) as session, pytest.raises(EpochError):
        lifecycle.check_session(session.get_one(t.Worker, "w"), "b0" * 16)
    hello(engine, "b1" * 16)
    with reading(engine) as session:
        lifecycle.check_session(session.get_one(t.Worker, "w"), "b1" * 16)
        assert session.get_one(t.Counter, "epoch").value == 1


@pytest.mark.parametrize("seen", [7, -1])
def test_after_a_restore_every_study_is_looked_at(home: Path, engine: Engine, tmp_path: Path, seen: int) -> None:
    """What an earlier look had seen are other events: fewer or more of them."""
    study = fill(engine, home)
    with writing(engine) as session:
        session.get_one(t.Study, study).hardware = "A"
    backup.backup(tmp_path / "kept", as_json=True)
    backup.restore(only_store(tmp_path / "kept"), yes=True, as_json=True)
    with reading(engine) as session:
        newest = queries.last_event(session)
        assert looks.studies_to_plan(session, newest) == []
        assert looks.studies_to_plan(session, newest + seen) == [study]


def test_a_backup_moves_a_store_to_another_database(home: Path, engine: Engine, tmp_path: Path) -> None:
    fill(engine, home)
    backup.backup(tmp_path / "kept", as_json=True)
    moved = open_store(f"sqlite:///{(only_store(tmp_path / 'kept')).as_posix()}")
    assert everything(moved) == everything(engine)
    moved.dispose()


def test_a_later_backup_copies_only_new_files(
    home: Path, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(engine, home)
    for copied in (1, 0):
        backup.backup(tmp_path / "kept", as_json=True)
        assert json.loads(capsys.readouterr().out)["copied"] == copied


def test_what_is_no_backup_changes_nothing(home: Path, engine: Engine, tmp_path: Path) -> None:
    fill(engine, home)
    before = everything(engine)
    for name, content in (("no.sqlite", b"no database at all, but long enough " * 50), ("empty.sqlite", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SetupError, match="not a store that"):
            backup.restore(tmp_path / name, yes=True, as_json=True)
    with pytest.raises(SetupError, match="not a file"):
        backup.restore(tmp_path, yes=True, as_json=True)
    assert everything(engine) == before


def refuse(path: Path, why: str) -> None:
    with pytest.raises(SetupError, match=why):
        backup.restore(path, yes=True, as_json=True)


def use(home: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The commands use the SQLite store of `home`; it is open, its newest rows in its -wal."""
    monkeypatch.setattr(backup, "settings", lambda: Settings(home=home, database_url=None))
    return open_store(f"sqlite:///{(home / 'store.sqlite').as_posix()}")


def test_the_store_in_use_is_no_backup_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = use(tmp_path / "home", monkeypatch)
    fill(engine, tmp_path / "home")
    before, live = everything(engine), tmp_path / "home" / "store.sqlite"
    os.link(live, tmp_path / "again.sqlite")
    refuse(live, "the store in use")
    refuse(tmp_path / "again.sqlite", "the store in use")
    assert everything(engine) == before
    engine.dispose()
    refuse(live, "the store in use")  # also where it is one whole file, which a restore would change


def test_a_store_that_no_backup_wrote_is_refused(home: Path, engine: Engine, tmp_path: Path) -> None:
    """A copy of a store's file: it has every table and none of what was in its -wal."""
    other = open_store(f"sqlite:///{(tmp_path / 'other.sqlite').as_posix()}")
    shutil.copyfile(tmp_path / "other.sqlite", tmp_path / "copied.sqlite")
    refuse(tmp_path / "other.sqlite", "in use")
    refuse(tmp_path / "copied.sqlite", "not a store that")
    other.dispose()
    refuse(tmp_path / "other.sqlite", "not a store that")


def test_a_backup_that_somebody_writes_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = use(tmp_path / "home", monkeypatch)
    fill(engine, tmp_path / "home")
    backup.backup(tmp_path / "kept", as_json=True)
    store = only_store(tmp_path / "kept")
    changed = open_store(f"sqlite:///{store.as_posix()}")
    refuse(store, "in use")
    changed.dispose()
    backup.restore(store, yes=True, as_json=True)
    with reading(engine) as session:  # a store that was restored is no backup itself
        assert session.connection().exec_driver_sql("PRAGMA application_id").scalar() == 0
    engine.dispose()


def test_where_no_store_is_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "settings", lambda: Settings(home=tmp_path / "mistyped", database_url=None))
    with pytest.raises(SetupError, match="no store at"):
        backup.backup(tmp_path / "kept", as_json=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_backup_is_its_owners_alone(
    home: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine, home)
    kept = tmp_path / "kept"
    for found in (False, True):  # a folder of an older backup is made private too
        backup.backup(kept, as_json=True)
        assert mode(kept) == mode(kept / "artifacts") == 0o700, found
        assert {mode(path) for path in kept.glob("store-*.sqlite")} == {0o600}
        (kept / "artifacts").chmod(0o755)
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("another file system")))
    monkeypatch.setattr(backup, "file_hash", lambda _: SHA)
    backup.backup(tmp_path / "elsewhere", as_json=True)
    assert mode(path_of(tmp_path / "elsewhere" / "artifacts", SHA)) == 0o600


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_restore_asks_first(home: Path, engine: Engine, tmp_path: Path) -> None:
    fill(engine, home)
    backup.backup(tmp_path / "kept", as_json=True)
    with writing(engine) as session:
        session.add(t.Worker(id="later", name="later", token_hash="x", joined_at=0))
    answer = CliRunner().invoke(main.app, ["restore", str(only_store(tmp_path / "kept"))], input="n\n")
    assert answer.exit_code != 0
    assert len(everything(engine)["worker"]) == 2
