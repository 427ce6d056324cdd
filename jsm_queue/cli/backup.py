"""`jsm backup`, `jsm restore` and `jsm collect`: the store and its artifacts, also while the pool runs.

<folder>/store-<time>.sqlite    one state of the store, whatever database it lies in; its owner's alone
<folder>/artifacts/…            the files that it speaks of; a later backup adds what is new; nobody else gets in
"""

import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import typer
from rich.progress import track
from sqlalchemy import Engine, make_url
from sqlmodel import select

from jsm_queue.artifacts import path_of
from jsm_queue.canonical import file_hash
from jsm_queue.cli import client, console
from jsm_queue.errors import SetupError
from jsm_queue.files import publish
from jsm_queue.settings import Settings, settings
from jsm_queue.store import tables as t
from jsm_queue.store.copy import copy_rows, replace_rows
from jsm_queue.store.database import open_store, reading

MARK = 0x6A736D62  # SQLite's application_id of what a backup wrote ("jsmb"): a store in use has none
BACKUP_FIX = "Give a store-….sqlite of a backup's folder"


class Copied(NamedTuple):
    """What a backup or a restore did: `rows` by table; of all `artifacts` those `copied` now and those `missing`."""

    store: str
    rows: dict[str, int]
    artifacts: int
    copied: int
    missing: int


def backup(folder: Path, as_json: bool) -> None:
    """Writes the store as it is now, and the artifacts that `folder` does not have yet.

    Raises SetupError where there is no store.
    """
    config = settings()
    live = _live_file(config)
    if live and not live.is_file():
        raise SetupError(f"There is no store at {live}", "Check JSM_HOME")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _make_private(folder / "artifacts")
    store = folder / time.strftime("store-%Y%m%d-%H%M%S.sqlite")
    with _open(config.store_url) as engine, TemporaryDirectory(dir=folder, prefix=".backup-") as partial:
        with _open(_sqlite(Path(partial) / "store.sqlite")) as copy:
            counts = copy_rows(engine, copy)
            files = _artifacts(copy)
        copied, missing = _copy_files(files, config.home / "artifacts", folder / "artifacts")
        _mark(Path(partial) / "store.sqlite")
        publish(Path(partial) / "store.sqlite", store)  # the last thing: whoever finds it finds its files too
    _tell(Copied(str(store), counts, len(files), copied, missing), as_json)


def restore(store: Path, yes: bool, as_json: bool) -> None:
    """Puts a backup in the place of what the store holds now, and brings back the artifacts that are gone.

    Raises SetupError for what `jsm backup` did not write, the store in use above all.
    """
    config = settings()
    if not store.is_file():
        raise SetupError(f"{store} is not a file", "Give a store-….sqlite that `jsm backup` wrote")
    _require_backup(store, _live_file(config))
    if not yes and not typer.confirm(f"Replace everything in {_name(config)} by {store}?"):
        raise typer.Abort
    with TemporaryDirectory(prefix="jsm-restore-") as folder:
        copy = shutil.copyfile(store, Path(folder) / "store.sqlite")  # an older one is brought up to date
        with _open(_sqlite(copy)) as source, _open(config.store_url) as engine:
            files = _artifacts(source)
            copied, missing = _copy_files(files, store.parent / "artifacts", config.home / "artifacts")
            counts = replace_rows(source, engine, time.time())
    _tell(Copied(str(store), counts, len(files), copied, missing), as_json)


def collect(dry_run: bool, as_json: bool) -> None:
    """Removes the api's files that nobody refers to, or says what would go."""
    with client.connect() as api:
        answer = client.call(api, "POST", "/v1/artifacts/collect", params={"dry_run": dry_run})
    if as_json:
        console.print_json(answer)
        return
    size = f"{answer['bytes'] / 1e9:.2f} GB"
    done = "would be removed" if dry_run else f"and {answer['removed']} of them removed"
    console.out.print(f"{answer['found']} artifacts that nobody refers to, {size}, {done}")
    rest = {"uploads": "uploads that broke off", "logs": "logs of attempts that ended 30 days ago"}
    for key, what in rest.items():
        if answer[key]:
            console.out.print(f"{answer[key]} {what}, {'would be removed' if dry_run else 'removed'}")


@contextmanager
def _open(url: str) -> Iterator[Engine]:
    engine = open_store(url)
    try:
        yield engine
    finally:
        engine.dispose()


def _require_backup(path: Path, live: Path | None) -> None:
    """Raises SetupError for what no backup wrote. A store in use is more than its file: the newest is in its -wal."""
    if live and live.exists() and path.samefile(live):
        raise SetupError(f"{path} is the store in use, not a backup of it", BACKUP_FIX)
    if path.with_name(f"{path.name}-wal").exists():
        raise SetupError(f"{path} is in use: {path.name}-wal lies beside it", BACKUP_FIX)
    try:
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("PRAGMA application_id").fetchone()
    except sqlite3.DatabaseError:
        found = None
    if found != (MARK,):
        raise SetupError(f"{path} is not a store that `jsm backup` wrote", BACKUP_FIX)


def _mark(path: Path) -> None:
    """Makes a store that nobody has open a backup: one file, recognisable, its owner's alone."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # else whoever reads it puts a -wal beside it
        connection.execute(f"PRAGMA application_id={MARK}")
    path.chmod(0o600)


def _make_private(folder: Path) -> None:
    """Hard links have the mode of their source: what nobody else may read is kept by the folder."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)


def _live_file(config: Settings) -> Path | None:
    """The SQLite file of the store in use; None where a server keeps it."""
    url = config.store_url
    database = make_url(url).database if url.startswith("sqlite") else None
    return Path(database) if database else None


def _sqlite(path: Path) -> str:
    return f"sqlite:///{path.resolve().as_posix()}"


def _name(config: Settings) -> str:
    return "the database of JSM_DATABASE_URL" if config.database_url else str(config.home / "store.sqlite")


def _artifacts(engine: Engine) -> list[tuple[str, int]]:
    with reading(engine) as session:
        query = select(t.Artifact.sha, t.Artifact.size).where(t.Artifact.state == "whole").order_by(t.Artifact.sha)
        return list(session.exec(query).all())


def _copy_files(files: Iterable[tuple[str, int]], source: Path, target: Path) -> tuple[int, int]:
    """Those that `target` lacks. Returns how many were copied, and how many are nowhere."""
    copied = missing = 0
    for sha, size in track(list(files), "artifacts", console=console.err, transient=True):
        path, found = path_of(target, sha), path_of(source, sha)
        if path.is_file() and path.stat().st_size == size:
            continue
        if not found.is_file() or found.stat().st_size != size:
            missing += 1
            continue
        _copy_file(found, path, sha)
        copied += 1
    return copied, missing


def _copy_file(source: Path, target: Path, sha: str) -> None:
    """By a hard link where the file system has them: artifacts never change. Else a verified copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        partial = target.with_name(f".{target.name}.part")
        partial.unlink(missing_ok=True)
        partial.touch(0o600)
        shutil.copyfile(source, partial)
        if file_hash(partial) != sha:
            partial.unlink()
            raise SetupError(f"{source} is damaged: its content is not what its name says", "Check the disk") from None
        publish(partial, target)


def _tell(done: Copied, as_json: bool) -> None:
    if as_json:
        console.print_json(done._asdict())
        return
    rows = sum(done.rows.values())
    console.out.print(f"store      {done.store}   {rows} rows: {done.rows['job']} jobs, {done.rows['record']} records")
    console.out.print(f"artifacts  {done.artifacts}, {done.copied} of them copied now")
    if done.missing:
        console.err.print(f"[yellow]warning:[/] {done.missing} artifacts are nowhere: jobs that need them fail")
