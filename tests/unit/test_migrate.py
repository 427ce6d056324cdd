"""Stores of every age become this version's, with all that is in them; and models and revisions agree."""

import re
import uuid
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text
from sqlmodel import Session, SQLModel, select

from jsm_queue.errors import SetupError
from jsm_queue.store import migrate
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, reading

REVISIONS = ("0001", "0002", "0003")
ROWS: dict[str, list[dict[str, Any]]] = {
    "study": [
        {"id": "s", "name": "s", "spec": "{}", "inputs": "{}", "state": "running", "priority": 0, "created_at": 1.5},
    ],
    "job": [
        {"id": "j", "kind": "score", "params": '{"split": "test"}', "state": "active", "charges": 2, "losses": 1,
         "created_at": 1.5, "error": "日本語"},
        {"id": "k", "kind": "judge", "params": "{}", "state": "done", "charges": 0, "losses": 0, "created_at": 1.5},
    ],
    "study_job": [{"study": "s", "job": "j", "stage": "bases", "cell": "a n=1 seed=1", "reused": False}],
    "job_need": [{"job": "k", "name": "answers", "needs": "j"}],
    "worker": [{"id": "w", "name": "PC", "token_hash": "h", "lease_until": 9.0, "control_rev": 3, "joined_at": 1.0}],
    "slot": [{"worker": "w", "idx": 0, "kind": "gpu", "device": "cuda:0", "vram_free": 17_179_869_184, "free": False}],
    "run": [{"id": "r", "worker": "w", "slot": 0, "state": "claimed", "offered_at": 2.0}],
    "attempt": [
        {"id": "a", "job": "j", "run": "r", "worker": "w", "state": "running", "position": 3, "total": 9,
         "offered_at": 2.0},
    ],
    "artifact": [{"sha": "f" * 64, "size": 16_000_000_000, "created_at": 1.0}],
    "artifact_ref": [{"job": "k", "role": "gguf", "sha": "f" * 64}],
    "record": [{"job": "k", "item": "q1", "name": "score", "attempt": "b", "value": 2.5}],
    "metric": [{"job": "k", "name": "score", "value": 2.5}],
    "verdict": [
        {"study": "s", "stage": "scale", "look": 1, "decision": '{"n": 1000}', "evidence": "{}", "rules_version": 1,
         "created_at": 3.0},
    ],
    "event": [{"seq": 1, "at": 1.0, "what": "study running", "study": "s"}],
    "counter": [{"name": "event", "value": 1.0}],
    "token": [{"hash": "t", "scope": "admin", "created_at": 1.0}],
}  # fmt: skip
"""What a store of the first revision holds, in the order in which it can be entered."""


@pytest.fixture
def bare(database_url: str) -> Engine:
    """An empty database, without any schema."""
    return create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))


def fill(engine: Engine) -> None:
    with engine.begin() as connection:
        for table, rows in ROWS.items():
            for row in rows:
                names, marks = ", ".join(f'"{name}"' for name in row), ", ".join(f":{name}" for name in row)
                connection.execute(text(f'INSERT INTO "{table}" ({names}) VALUES ({marks})'), row)


def contents(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """The columns of ROWS as they are in the store now, JSON as text."""
    with engine.connect() as connection:
        return {
            table: [
                dict(row)
                for row in connection.execute(
                    text(f'SELECT {", ".join(columns(connection, table, rows[0]))} FROM "{table}" ORDER BY 1, 2')
                ).mappings()
            ]
            for table, rows in ROWS.items()
        }


def columns(connection: Any, table: str, row: dict[str, Any]) -> list[str]:
    json = {c["name"] for c in inspect(connection).get_columns(table) if str(c["type"]) == "JSON"}
    return [f'CAST("{name}" AS TEXT) AS "{name}"' if name in json else f'"{name}"' for name in row]


def at_revision(engine: Engine, revision: str) -> None:
    with engine.begin() as connection:
        migrate.upgrade(connection, revision)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_store_of_each_earlier_revision_is_carried_forward(bare: Engine, database_url: str, revision: str) -> None:
    at_revision(bare, revision)
    fill(bare)
    before = contents(bare)
    engine = open_store(database_url)
    assert contents(engine) == before
    with reading(engine) as session:
        job = session.exec(select(t.Job).where(t.Job.id == "j")).one()
        assert (job.charges, job.position, job.checkpoint, job.solo, job.params) == (
            2,
            0,
            None,
            False,
            {"split": "test"},
        )
        assert session.exec(select(t.Artifact)).one().state == "whole"
        assert session.exec(text("SELECT score FROM cell_score")).all() == []  # type: ignore[call-overload]
    engine.dispose()
    bare.dispose()


def test_a_store_from_before_revisions_were_noted_is_taken_for_the_first(bare: Engine, database_url: str) -> None:
    at_revision(bare, "0001")
    fill(bare)
    with bare.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    before = contents(bare)
    engine = open_store(database_url)
    assert contents(engine) == before
    with engine.connect() as connection:
        assert migrate.revision_of(connection) == REVISIONS[-1]
    engine.dispose()
    bare.dispose()


def test_a_store_of_a_newer_version_is_refused_and_stays_as_it_is(database_url: str) -> None:
    open_store(database_url).dispose()
    newer = uuid.uuid4().hex[:12]
    bare = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    with bare.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :newer"), {"newer": newer})
    with pytest.raises(SetupError, match=f"newer version.*{newer}"):
        open_store(database_url)
    with bare.connect() as connection:
        assert migrate.revision_of(connection) == newer
    bare.dispose()


def test_models_and_revisions_agree(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_partial_indexes_are_those_of_the_models(engine: Engine) -> None:
    """Alembic's comparison does not look at an index's condition."""
    models = {
        str(index.name): states(str(index.dialect_options["sqlite"]["where"]))
        for table in SQLModel.metadata.tables.values()
        for index in table.indexes
        if index.dialect_options["sqlite"]["where"] is not None
    }
    assert models == {"one_open_run_a_slot": ["closed"], "one_live_attempt_a_job": sorted(t.LIVE)}
    catalogue = {"postgresql": ("indexdef", "pg_indexes", "indexname"), "sqlite": ("sql", "sqlite_master", "name")}
    definition, table, name = catalogue[engine.dialect.name]
    with engine.connect() as connection:
        query = text(f"SELECT {definition} FROM {table} WHERE {name} = :index")
        assert {i: states(connection.execute(query, {"index": i}).scalar_one()) for i in models} == models


def states(definition: str) -> list[str]:
    return sorted(re.findall(r"'(\w+)'", definition))


def test_text_is_ordered_by_code_points(engine: Engine) -> None:
    names = ["b", "a", "B", "_", "あ", "ア", "10", "9"]
    with Session(engine.execution_options(jsm_write=True)) as session, session.begin():
        session.add_all(t.Counter(name=name, value=0) for name in names)
    with reading(engine) as session:
        assert list(session.exec(select(t.Counter.name).order_by(t.Counter.name))) == sorted(names)
