"""The stage tables from the SQL views, on a store that a small study filled."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import Session

from jsm_queue import lifecycle
from jsm_queue.errors import NotFoundError
from jsm_queue.kinds import JobDraft
from jsm_queue.planner import Cell, Wanted
from jsm_queue.store import queries
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, reading, writing
from tests.unit.studies import inputs, spec

SCORE = JobDraft("score", {"split": "validation"})
TEST = JobDraft("score", {"split": "test"})
JUDGE = JobDraft("judge", {"split": "bench"})
CELL = Cell("bases", "a", 10, 1)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_store(f"sqlite:///{(tmp_path / 'store.sqlite').as_posix()}")
    toy = spec()
    with writing(engine) as s:
        study, _ = lifecycle.add_study(s, toy.model_dump(mode="json"), inputs(toy).model_dump(mode="json"), 0.0)
        lifecycle.list_jobs(s, study.id, [Wanted("bases", CELL, job) for job in (SCORE, TEST, JUDGE)], 0.0)
        for job, split_nll in ((SCORE, 2.0), (TEST, 4.0)):
            fill(s, job, {"nll": split_nll, "tokens": 2.0, "bytes": 8.0})
        fill(s, JUDGE, {"score": 1.5})
    yield engine
    engine.dispose()


def fill(s: Session, job: JobDraft, values: dict[str, float]) -> None:
    s.get_one(t.Job, job.id).state = "done"
    for item in ("q1", "q2"):
        s.add_all(t.Record(job=job.id, item=item, name=k, value=v, attempt="x") for k, v in values.items())
    s.add(t.Metric(job=job.id, name="seconds", value=1.0))


def study_id(s: Session) -> str:
    return queries.studies(s)[0].id


def test_comparisons_are_one_row_a_cell_and_split(engine: Engine) -> None:
    with reading(engine) as s:
        rows = {row["split"]: row for row in queries.comparisons(s, study_id(s))["bases"]}
    assert {split: row.get("nll_per_token") for split, row in rows.items()} == {
        "validation": 1.0,
        "test": 2.0,
        "bench": None,
    }
    assert rows["test"]["examples"] == 2
    assert rows["test"]["bits_per_byte"] == pytest.approx(0.5 / math.log(2))
    assert rows["bench"]["score"] == 1.5
    assert rows["bench"]["score.seconds"] == 1.0


def test_counts_and_pages(engine: Engine) -> None:
    with reading(engine) as s:
        counts = queries.job_counts(s, study_id(s))
        assert (counts["total"], counts["done"], counts["reused"]) == (3, 3, 0)
        first = queries.job_rows(s, study_id(s), limit=2)
        rest = queries.job_rows(s, study_id(s), after=first[-1]["id"])
        assert len(first) == 2 and len(rest) == 1
        assert len(queries.records(s, study_id(s), None, "nll", 0, 10)) == 4


def test_a_prefix_names_a_study_only_when_it_is_long_and_unique(engine: Engine) -> None:
    with reading(engine) as s:
        found = study_id(s)
        assert queries.find_study(s, found[:6]).id == found
        for wrong in (found[:3], "%", "ffffff_", ""):
            with pytest.raises(NotFoundError):
                queries.find_study(s, wrong)
