"""Opening the database, and its two kinds of transaction."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel import Session, SQLModel

from jsm_queue.errors import SetupError
from jsm_queue.store import tables, views

BUSY_TIMEOUT_MS = 10_000  # how long a writer waits for another's commit before "database is locked"


def open_store(url: str) -> Engine:
    """The store at a SQLAlchemy URL, its tables and views made where they are missing. Raises SetupError."""
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    engine = _engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    try:
        with engine.execution_options(jsm_write=True).begin() as connection:
            SQLModel.metadata.create_all(connection, tables=[t.__table__ for t in _all_tables()])  # type: ignore[attr-defined]
            views.create(connection)
    except OperationalError as error:
        raise SetupError(
            f"The store at {engine.url!r} cannot be opened ({error.orig})",
            "Check JSM_HOME and JSM_DATABASE_URL",
        ) from error
    return engine


def _engine(url: str) -> Engine:
    fix = "Leave JSM_DATABASE_URL unset: the store of this version is SQLite"
    try:
        return create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise SetupError(f"JSM_DATABASE_URL needs {error.name}, which is not installed", fix) from error
    except (ArgumentError, ValueError) as error:  # a bad port is a ValueError
        raise SetupError("JSM_DATABASE_URL is not the address of a database", fix) from error


def _all_tables() -> list[type[SQLModel]]:
    return [value for value in vars(tables).values() if isinstance(value, type) and hasattr(value, "__table__")]


def _configure_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # we send BEGIN ourselves
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A deferred BEGIN that reads and then writes fails "locked" under load, whatever the busy timeout.
    write = connection.get_execution_options().get("jsm_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A read transaction: one consistent view of the store."""
    with Session(engine) as session:
        yield session


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """A write transaction, committed at the end of the block; rolled back when it raises. Keep I/O out of it."""
    with (
        Session(engine.execution_options(jsm_write=True), expire_on_commit=False) as session,
        session.begin(),
    ):
        yield session


def insert_or_ignore(session: Session, row: SQLModel) -> bool:
    """Insert a row unless one with its primary key exists. Returns whether it was inserted."""
    table: Any = type(row)
    dialect = session.get_bind().dialect.name
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert
    statement = insert(table).values(row.model_dump()).on_conflict_do_nothing()
    return session.connection().execute(statement).rowcount == 1
