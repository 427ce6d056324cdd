"""Opening the database, and its two kinds of transaction.

Writers come one after the other on both databases: SQLite by BEGIN IMMEDIATE, Postgres by one advisory lock that a
write transaction takes first. So what a writer reads stays true until it commits, wherever the store lies, and no
transaction fails for another's sake. Readers are never kept waiting: each sees one consistent state of the store.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, literal, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel import Session, SQLModel

from jsm_queue.crashpoints import commit_name, reach
from jsm_queue.errors import SetupError
from jsm_queue.store import migrate, views

BUSY_TIMEOUT_MS = 10_000  # how long a writer waits for another's commit before it fails
IDLE_TIMEOUT_MS = 60_000  # after which Postgres ends the transaction of a process that stands still
WRITER_LOCK = 0x6A736D  # the advisory lock of Postgres that a writer holds ("jsm")
DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def open_store(url: str) -> Engine:
    """The store at a URL, brought to this version's schema. Raises SetupError.

    `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/DATABASE`.
    """
    address = _address(url)
    if address.drivername == "sqlite" and address.database:
        Path(address.database).parent.mkdir(parents=True, exist_ok=True)
    engine = _engine(address)
    try:
        with engine.execution_options(jsm_write=True).begin() as connection:
            migrate.upgrade(connection)
            views.create(connection)
            reach("before commit schema", "")
        reach("after commit schema", "")
    except DBAPIError as error:
        raise SetupError(
            f"The store at {address!r} cannot be opened ({_first_line(error.orig)})",
            "Check JSM_HOME and JSM_DATABASE_URL, that the database runs, and that its disk has room",
        ) from error
    return engine


def _address(url: str) -> URL:
    fix = "Set JSM_DATABASE_URL to postgresql://USER:PASSWORD@HOST/DATABASE, or leave it unset for SQLite"
    try:
        address = make_url(url)
    except (ArgumentError, ValueError) as error:  # a bad port is a ValueError
        raise SetupError("JSM_DATABASE_URL is not the address of a database", fix) from error
    if address.drivername not in {*DRIVERS, *DRIVERS.values()}:
        raise SetupError(f"JSM_DATABASE_URL is not the address of a database: {address.drivername!r} is unknown", fix)
    return address.set(drivername=DRIVERS.get(address.drivername, address.drivername))


def _engine(address: URL) -> Engine:
    if address.drivername == "sqlite":
        engine = create_engine(address)
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    # The driver's default is to wait for ever for a host that does not answer, and for a lock.
    options = f"-c lock_timeout={BUSY_TIMEOUT_MS} -c idle_in_transaction_session_timeout={IDLE_TIMEOUT_MS}"
    arguments = {"connect_timeout": 10, "application_name": "jsm-queue", "options": options}
    try:
        engine = create_engine(address, pool_pre_ping=True, connect_args=arguments)
    except ModuleNotFoundError as error:
        fix = "pip install 'jsm-queue[postgres]', or leave JSM_DATABASE_URL unset for SQLite"
        raise SetupError(f"JSM_DATABASE_URL needs {error.name}, which is not installed", fix) from error
    event.listen(engine, "begin", _begin_postgres)
    return engine


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
    connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN")


def _begin_postgres(connection: Connection) -> None:
    if _writes(connection):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _writes(connection: Connection) -> bool:
    return connection.get_execution_options().get("jsm_write", False)


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]


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
        name = commit_name(session.info.get("events", []), 2)
        reach(f"before {name}", "")
    reach(f"after {name}", "")


def insert_or_ignore(session: Session, row: SQLModel) -> bool:
    """Insert a row unless one with its primary key exists. Returns whether it was inserted."""
    table: Any = type(row)
    dialect = session.get_bind().dialect.name
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert
    # RETURNING, because Postgres' driver does not keep an INSERT's count of rows.
    statement = insert(table).values(row.model_dump()).on_conflict_do_nothing().returning(literal(1))
    return session.connection().execute(statement).first() is not None
