"""The stage tables from the SQL views, on a store that a small study filled."""

import math
import re
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlmodel import Session

from jsm_queue import lifecycle
from jsm_queue.errors import NotFoundError
from jsm_queue.kinds import JobDraft
from jsm_queue.planner import Cell, Wanted
from jsm_queue.store import pages, queries, results, summaries
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from jsm_queue.verdicts import Verdict
from tests.unit.studies import inputs, spec

SCORE = JobDraft("score", {"split": "validation"})
TEST = JobDraft("score", {"split": "test"})
JUDGE = JobDraft("judge", {"split": "bench"})
CELL = Cell("bases", "a", 10, 1)


@pytest.fixture
def engine(engine: Engine) -> Engine:
    toy = spec()
    with writing(engine) as s:
        study, _ = lifecycle.add_study(s, toy.model_dump(mode="json"), inputs(toy).model_dump(mode="json"), 0.0)
        lifecycle.list_jobs(s, study.id, [Wanted("bases", CELL, job) for job in (SCORE, TEST, JUDGE)], 0.0)
        for job, split_nll in ((SCORE, 2.0), (TEST, 4.0)):
            fill(s, job, {"nll": split_nll, "tokens": 2.0, "bytes": 8.0})
        fill(s, JUDGE, {"score": 1.5})
    return engine


def fill(s: Session, job: JobDraft, values: dict[str, float]) -> None:
    s.get_one(t.Job, job.id).state = "done"
    for item in ("q1", "q2"):
        s.add_all(t.Record(job=job.id, item=item, name=k, value=v, attempt="x") for k, v in values.items())
    s.add(t.Metric(job=job.id, name="seconds", value=1.0))


def study_id(s: Session) -> str:
    return queries.studies(s)[0].id


def test_comparisons_are_one_row_a_cell_and_split(engine: Engine) -> None:
    with reading(engine) as s:
        rows = {row["split"]: row for row in results.comparisons(s, study_id(s))["bases"]}
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
        first = pages.job_rows(s, study_id(s), limit=2)
        rest = pages.job_rows(s, study_id(s), after=first[-1]["id"])
        assert len(first) == 2 and len(rest) == 1
        assert len(results.records(s, study_id(s), None, "nll", 0, 10)) == 4


def relist(s: Session, job: JobDraft, stage: str, cell: str, reused: bool = False) -> None:
    s.add(t.StudyJob(study=study_id(s), job=job.id, stage=stage, cell=cell, reused=reused))


def row_of(engine: Engine, job: JobDraft) -> dict[str, Any]:
    with reading(engine) as s:
        return next(row for row in pages.job_rows(s, study_id(s)) if row["id"] == job.id)


def test_a_job_is_shown_by_its_first_listing_as_a_whole(engine: Engine) -> None:
    with writing(engine) as s:
        relist(s, SCORE, "quantization", "a cell before all others", reused=True)
        relist(s, TEST, "scale", "z")
        relist(s, TEST, "scale", "y")
    shown = [{key: row_of(engine, job)[key] for key in ("stage", "cell", "reused")} for job in (SCORE, TEST)]
    assert shown == [
        {"stage": "bases", "cell": CELL.label, "reused": True},
        {"stage": "scale", "cell": "y", "reused": False},
    ]
    with reading(engine) as s:
        counts = queries.job_counts(s, study_id(s))
        assert (counts["total"], counts["reused"]) == (3, 1)
        assert queries.first_listing(s, TEST.id).cell == "y"


@pytest.mark.parametrize("cancelled", [0, 1])
def test_a_job_is_named_by_a_study_that_runs(engine: Engine, cancelled: int) -> None:
    with writing(engine) as s:
        other = spec(name="other")
        added, _ = lifecycle.add_study(s, other.model_dump(mode="json"), inputs(other).model_dump(mode="json"), 0.0)
        lifecycle.list_jobs(s, added.id, [Wanted("bases", CELL, TEST)], 0.0)
        ids = sorted(study.id for study in queries.studies(s))
        s.get_one(t.Study, ids[cancelled]).state = "cancelled"
    with reading(engine) as s:
        assert queries.first_listing(s, TEST.id).study == ids[1 - cancelled]


def test_no_boolean_is_aggregated(engine: Engine) -> None:
    """Postgres refuses max(boolean)."""
    said: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _k, statement, *_: said.append(statement))
    with reading(engine) as s:
        queries.job_counts(s, study_id(s))
        pages.job_rows(s, study_id(s))
    assert said
    assert not [statement for statement in said if re.search(r"(max|min|sum)\(study_job\.reused\)", statement)]


def tried(s: Session, job: JobDraft, attempt: str, state: str, ended_at: float | None, message: str = "") -> None:
    if s.get(t.Worker, "w") is None:
        s.add(t.Worker(id="w", name="pc", token_hash="", joined_at=0.0))
        s.flush()
    s.add(t.Run(id=f"run-{attempt}", worker="w", slot=0, state="closed", offered_at=0.0))
    s.flush()
    begun = {"run": f"run-{attempt}", "worker": "w", "offered_at": (ended_at or 9.0) - 1}
    reason = "crashed" if state == "ended" else None
    s.add(t.Attempt(id=attempt, job=job.id, state=state, reason=reason, message=message, ended_at=ended_at, **begun))
    s.flush()


def test_how_the_last_attempt_ended_is_shown_until_the_job_is_done(engine: Engine) -> None:
    with writing(engine) as s:
        tried(s, SCORE, "a2", "ended", 3.0, "again")
        tried(s, SCORE, "a1", "ended", 2.0, "at first")
        tried(s, SCORE, "a3", "running", None)
        tried(s, TEST, "a4", "accepted", 2.0)
        s.get_one(t.Job, SCORE.id).state = "active"
    assert row_of(engine, SCORE)["ended"] == {"reason": "crashed", "message": "again"}
    assert row_of(engine, TEST)["ended"] is None
    with writing(engine) as s:
        s.get_one(t.Job, SCORE.id).state = "done"
    assert row_of(engine, SCORE)["ended"] is None
    with reading(engine) as s:
        assert [(a.id, name) for a, name in queries.attempts(s, SCORE.id)] == [("a1", "pc"), ("a2", "pc"), ("a3", "pc")]


def test_a_page_of_jobs_takes_as_many_queries_as_one_job(engine: Engine) -> None:
    said: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _k, statement, *_: said.append(statement))
    counts = []
    with reading(engine) as s:
        study = study_id(s)
        for limit in (1, 1000):
            said.clear()
            pages.job_rows(s, study, limit=limit)
            counts.append(len(said))
    assert counts == [5, 5]


def test_a_job_of_a_paused_study_may_be_wanted_by_another(engine: Engine) -> None:
    with writing(engine) as s:
        study = study_id(s)
        mine = pages.job_rows(s, study)[0]["id"]
        for name, state in (("b", "running"), ("c", "paused")):
            s.add(t.Study(id=name, name=name, spec={}, inputs={}, state=state, created_at=0.0))
            s.flush()
            s.add(t.StudyJob(study=name, job=mine, stage="scale", cell=""))
    with reading(engine) as s:
        rows = pages.job_rows(s, study)
    assert [row["wanted_by"] for row in rows if row["id"] == mine] == ["b"]
    assert {row["wanted_by"] for row in rows if row["id"] != mine} == {None}


def test_a_latency_job_waits_for_its_class_of_hardware(engine: Engine) -> None:
    latency = JobDraft("latency", {"hardware": "RTX 4060 Ti 16 GB"})
    with writing(engine) as s:
        lifecycle.list_jobs(s, study_id(s), [Wanted("bases", None, latency)], 0.0)
        s.add(t.Worker(id="w", name="w", token_hash="", joined_at=0.0, lease_until=60.0, hardware=hardware("CPU")))

    def waiting(now: float = 0.0) -> str | None:
        with reading(engine) as s:
            return queries.waiting_for(s, queries.studies(s)[0], now)

    assert waiting() == "a worker of class 'RTX 4060 Ti 16 GB' for latency"
    with writing(engine) as s:
        s.get_one(t.Worker, "w").hardware = hardware("RTX 4060 Ti 16 GB")
    assert waiting() is None
    assert waiting(now=61.0) is not None, "its lease expired"
    with writing(engine) as s:
        s.get_one(t.Job, latency.id).state = "done"
    assert waiting(now=61.0) is None
    with writing(engine) as s:
        s.get_one(t.Job, latency.id).state = "ready"
        lifecycle.cancel_study(s, queries.studies(s)[0], 1.0)
    assert waiting(now=61.0) is None


def test_a_study_waits_for_owners_who_keep_every_slot(engine: Engine) -> None:
    with writing(engine) as s:
        for name, hold in (("aki", "on battery"), ("ben", "eldenring runs")):
            s.add(t.Worker(id=name, name=name, token_hash=name, joined_at=0.0, lease_until=60.0))
            s.flush()
            s.add(t.Slot(worker=name, idx=0, kind="cpu", device="cpu", vram_free=0, free=False, hold=hold))

    def waiting(now: float = 0.0) -> str | None:
        with reading(engine) as s:
            return queries.waiting_for(s, queries.studies(s)[0], now)

    assert waiting() == "aki, kept by its owner: on battery, and 1 more"
    with writing(engine) as s:
        s.get_one(t.Worker, "ben").state = "draining"
    assert waiting() == "aki, kept by its owner: on battery"
    with writing(engine) as s:
        s.get_one(t.Worker, "aki").state = "paused"
    assert waiting() == "aki, which is paused: `jsm worker resume`, and 1 more"
    with writing(engine) as s:
        s.get_one(t.Worker, "aki").state = "active"
    assert waiting(now=61.0) is None, "nobody is here"
    with writing(engine) as s:
        s.get_one(t.Worker, "ben").state = "active"
        s.get_one(t.Slot, ("ben", 0)).hold = None
    assert waiting() is None, "a slot may be had"


def test_a_study_waits_for_a_worker_that_can_do_a_kind(engine: Engine) -> None:
    lacks = {"latency": "not installed: llama_cpp"}
    with writing(engine) as s:
        lifecycle.list_jobs(s, study_id(s), [Wanted("bases", None, JobDraft("latency", {}))], 0.0)
        for name in ("aki", "ben"):
            machine = {"lacks": lacks}
            s.add(t.Worker(id=name, name=name, token_hash=name, joined_at=0.0, lease_until=60.0, hardware=machine))

    def waiting(now: float = 0.0) -> str | None:
        with reading(engine) as s:
            return queries.waiting_for(s, queries.studies(s)[0], now)

    assert waiting() == "a worker that can do latency (aki: not installed: llama_cpp)"
    assert waiting(now=61.0) is None, "nobody is here"
    with writing(engine) as s:
        s.get_one(t.Worker, "ben").hardware = {"lacks": {}}
    assert waiting() is None


def hardware(name: str) -> dict[str, str]:
    return {"hardware_class": name}


def test_a_prefix_names_a_study_only_when_it_is_long_and_unique(engine: Engine) -> None:
    with reading(engine) as s:
        found = study_id(s)
        assert queries.find_study(s, found[:6]).id == found
        for wrong in (found[:3], "%", "ffffff_", ""):
            with pytest.raises(NotFoundError):
                queries.find_study(s, wrong)


def test_all_studies_take_as_many_queries_as_one(engine: Engine) -> None:
    said: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _k, statement, *_: said.append(statement))
    with reading(engine) as s:
        [one] = summaries.of_all(s)
        before = len(said)
        assert summaries.of_study(s, queries.studies(s)[0]) == one
    with writing(engine) as s:
        for name in ("two", "three"):
            toy = spec(name=name)
            lifecycle.add_study(s, toy.model_dump(mode="json"), inputs(toy).model_dump(mode="json"), 1.0)
        lifecycle.list_jobs(s, queries.studies(s)[0].id, [Wanted("bases", CELL, SCORE)], 1.0)
        s.get_one(t.Job, TEST.id).state = "failed"
    said.clear()
    with reading(engine) as s:
        found = {row["name"]: row["jobs"] for row in summaries.of_all(s)}
    assert len(said) == before
    assert found["toy"] == summaries.NO_JOBS | {"done": 2, "failed": 1, "total": 3}
    assert sorted(found[name]["reused"] for name in ("two", "three")) == [0, 1]
    assert sum(found[name]["total"] for name in ("two", "three")) == 1


def test_a_study_has_the_stage_that_waits_for_its_verdict(engine: Engine) -> None:
    def stage() -> str:
        with reading(engine) as s:
            return summaries.of_all(s)[0]["stage"]

    assert stage() == "scale"
    with writing(engine) as s:
        lifecycle.write_verdict(s, study_id(s), "scale", Verdict({"n": 10}, {}), 1.0)
    assert stage() == "bases"
    with writing(engine) as s:
        lifecycle.end_study(s, study_id(s), 2.0)
    assert stage() == "ended"


def test_records_of_cells_are_those_of_one_split_in_order(engine: Engine) -> None:
    with reading(engine) as s:
        found = list(results.cell_records(s, study_id(s), "bases", "score", "test", ["nll"]))
    assert [(row.cell, row.n, row.seed, row.item, row.value) for row in found] == [
        (CELL.label, 10, 1, "q1", 4.0),
        (CELL.label, 10, 1, "q2", 4.0),
    ]
