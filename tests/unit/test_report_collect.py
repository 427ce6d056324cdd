"""The report of a small study in a real store: planned by the planner, filled by hand, decided by the coordinator."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, select

from jsm_queue import coordinator, lifecycle, planner
from jsm_queue.artifacts import path_of
from jsm_queue.data.examples import Example, write_examples
from jsm_queue.kinds import KINDS, BaseFacts
from jsm_queue.report import collect
from jsm_queue.report.data import ReportData
from jsm_queue.report.html import render_html
from jsm_queue.spec import StudySpec
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, reading, writing
from tests.unit.studies import inputs, sha, spec

BENCH, DATA_REPORT = sha("bench"), sha("report")
QUESTIONS = [
    Example(
        id=f"b{i:02}", question=f"床止め{i}は何ですか。", answer=f"施設{i}です。", key_facts=[["施設"]],
        stratum="taught", category=f"category {i % 9}",
    )
    for i in range(60)
]  # fmt: skip
SIZES = {"F16": 12e6, "Q8_0": 6e6}


def open_pool(folder: Path) -> Engine:
    """A store with one worker, and the bench file among the artifacts."""
    engine = open_store(f"sqlite:///{(folder / 'store.sqlite').as_posix()}")
    with writing(engine) as s:
        s.add(t.Worker(id="w", name="w", token_hash="0", joined_at=0))
        s.add_all(t.Artifact(sha=file, size=1, created_at=0) for file in (BENCH, DATA_REPORT))
        s.flush()
        s.add(t.Run(id="r", worker="w", slot=0, state="closed", offered_at=0))
    bench, report = (path_of(folder / "artifacts", sha) for sha in (BENCH, DATA_REPORT))
    for path in (bench, report):
        path.parent.mkdir(parents=True)
    write_examples(bench, QUESTIONS)
    report.write_text(json.dumps(FOUND), encoding="utf-8")
    return engine


FOUND = {
    "dropped": {
        "counts": {"near-duplicate question": 4, "empty question or answer": 1},
        "examples": [
            {"id": f"p{i}", "reason": "near-duplicate question", "split": "bench", "against": "b1", "similarity": 0.9}
            for i in range(4)
        ]
        + [{"id": "p9", "reason": "empty question or answer", "split": "source", "against": "", "similarity": 1.0}],
    },
    "oddities": {"train": {"over_long_answer": ["p5"], "without_key_facts": []}, "test": {"over_long_answer": ["p6"]}},
    "unsupported_numbers": {"train": {"p7": ["15m"]}, "test": {}},
    "ignored_columns": ["note"],
}
"""What the kind prepare writes, as far as the report reads it."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_pool(tmp_path)
    yield engine
    engine.dispose()


class Ended(NamedTuple):
    """A study that ended, which tests only read."""

    engine: Engine
    study_id: str
    folder: Path
    report: ReportData


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    folder = tmp_path_factory.mktemp("ended")
    engine = open_pool(folder)
    study_id = run_study(engine)
    yield Ended(engine, study_id, folder, report_of(engine, study_id, folder))
    engine.dispose()


def whole() -> StudySpec:
    """All three stages."""
    stages = {"scale": {"base": "a", "sizes": [10, 20], "seeds": [1, 2], "read_test": "all"}}
    return spec(stages=stages | {"bases": {}, "quantization": {"formats": ["F16", "Q8_0"]}})


def run_study(
    engine: Engine,
    fail: str = "",
    kinds: tuple[str, ...] = tuple(KINDS),
    steps: int = 99,
    toy: StudySpec | None = None,
) -> str:
    """Plan, fill and decide until the study has ended, or for so many steps more.

    `fail`: a cell whose jobs of the `kinds` fail.
    """
    toy = toy or whole()
    refs = inputs(toy).model_copy(update={"facts": {"a": BaseFacts(family="qwen2", parameters=4_900_000)}})
    with writing(engine) as s:
        study, _ = lifecycle.add_study(s, toy.model_dump(mode="json"), refs.model_dump(mode="json"), 0.0)
        study.hardware = "test bench"
        study_id = study.id
    for _ in range(steps):
        with writing(engine) as s:
            states = dict(s.exec(select(t.Job.id, t.Job.state)).all())
            decisions = {row.stage: row.decision for row in s.exec(select(t.VerdictRow)).all()}
            view = planner.Study(study_id, toy, refs, "test bench", states, decisions)
            plan = planner.plan(view)
            if plan.ended:
                lifecycle.end_study(s, study_id, 600.0)
                return study_id
            lifecycle.list_jobs(s, study_id, plan.jobs, 1.0)
            for stage in plan.due:
                lifecycle.write_verdict(s, study_id, stage, coordinator.decide(s, view, stage), 2.0)
            for wanted in plan.jobs:
                fails = wanted.cell is not None and wanted.cell.label == fail and wanted.job.kind in kinds
                fill(s, wanted, fails)
    return study_id


def fill(s: Session, wanted: planner.Wanted, failed: bool) -> None:
    """End a job as a worker would have."""
    job = s.get_one(t.Job, wanted.job.id)
    if job.state in planner.TERMINAL:
        return
    if failed:
        job.state = "failed"
        return
    job.state = "done"
    provenance = {"hardware_class": "test bench", "packages": {"torch": "2.13.0"}}
    times: dict[str, Any] = {"offered_at": 1.0, "started_at": 2.0, "ended_at": 5.0}
    s.add(t.Attempt(id=job.id, job=job.id, run="r", worker="w", state="accepted", provenance=provenance, **times))
    records, metrics = result(job, wanted.cell)
    for item, name, value, meta in records:
        s.add(t.Record(job=job.id, item=item, name=name, attempt=job.id, value=value, meta=meta))
    s.add_all(t.Metric(job=job.id, name=name, value=value) for name, value in metrics.items())
    if job.kind == "prepare":
        s.add(t.ArtifactRef(job=job.id, role="bench", sha=BENCH))
        s.add(t.ArtifactRef(job=job.id, role="data_report", sha=DATA_REPORT))


Records = list[tuple[str, str, float, dict[str, Any] | None]]


def result(job: t.Job, cell: planner.Cell | None) -> tuple[Records, dict[str, float]]:
    """What each kind delivers, as its contract says. More training data gives a lower NLL and a higher score."""
    skill = 0.0 if cell is None or cell.n is None else 0.5 if cell.n == 10 else 0.8
    skill = 0.6 if cell and cell.adapter else skill
    skill -= 0.4 if cell and cell.base == "b" else 0.0
    if job.kind == "prepare":
        return [], {"train": 20, "validation": 12, "test_taught": 6, "test_unseen": 6, "bench": 60, "dropped": 1}
    if job.kind == "score":
        return nll_records(job.params["split"], skill), {"tokens": 120.0, "dropped": 1.0 if skill == 0.5 else 0.0}
    if job.kind == "convert":
        return [], {"bytes": SIZES[job.params["format"]]}
    if job.kind == "parity":
        records: Records = [(f"t{i}", name, 0.002, None) for i in range(4) for name in ("kl", "agree")]
        return records, {"ok": 1.0, "kl": 0.002, "agree": 0.99}
    if job.kind == "answer":
        meta = {"text": "<b>施設</b>です。", "stop": "end", "stratum": "taught"}
        answers: Records = [(q.id, "answer", 5.0, meta | {"category": q.category}) for q in questions(job)]
        return answers, {"truncated": 0.0 if cell and cell.n else 2.0}
    if job.kind == "judge":
        return judge_records(job, skill), {"score": 3 * skill}
    if job.kind == "latency":
        values = {"seconds": 0.3, "ttft": 0.1, "tokens_per_second": 50.0}
        timed: Records = [
            (f"{index}|{question}|{repeat}", name, value, {"cell": cell, "device": "cpu", "threads": 2})
            for index, cell in enumerate(job.params["cells"])
            for question in range(4)
            for repeat in (0, 1)
            for name, value in values.items()
        ]
        return timed, {}
    return [], {"seconds": 1.0, "dropped": 3.0}


def questions(job: t.Job) -> list[Example]:
    strata = [("taught", "unseen")[i % 2] for i in range(12)]
    test = [Example(id=f"t{i}", question="?", answer="!", stratum=strata[i]) for i in range(12)]  # type: ignore[arg-type]
    return QUESTIONS if job.params["split"] == "bench" else test


def nll_records(split: str, skill: float) -> Records:
    records: Records = []
    for i in range(12):
        stratum = "" if split == "validation" else ("taught", "unseen")[i % 2]
        gain = 0.0 if stratum == "unseen" else 2 * skill
        noise = random.Random(f"{i}").gauss(0, 0.2)
        values = {"tokens": 10.0, "bytes": 30.0, "key_tokens": 2.0}
        values |= {"nll": 10 * (4 - gain + noise), "key_nll": 2 * (5 - gain + noise)}
        for name, value in values.items():
            records.append((f"{split}{i}", name, value, {"stratum": stratum} if name == "nll" else None))
    return records


def judge_records(job: t.Job, skill: float) -> Records:
    records: Records = []
    for i, question in enumerate(questions(job)):
        right = question.stratum == "taught" and (i + 0.5) / len(questions(job)) < skill
        meta = {"found": ["施設"] if right else [], "missing": [] if right else ["施設"]}
        meta |= {"stratum": question.stratum, "category": question.category}
        records.append((question.id, "score", 3.0 * right, meta))
    return records


def report_of(engine: Engine, study_id: str, tmp_path: Path) -> ReportData:
    with reading(engine) as s:
        return collect.collect(s, study_id, tmp_path / "artifacts")


def test_a_whole_study(ended: Ended):
    report = ended.report
    assert [(v.stage, v.status) for v in report.verdicts] == [
        ("scale", "decided"), ("bases", "decided"), ("quantization", "decided"),
    ]  # fmt: skip
    best = report.recommendation
    assert (best.base, best.n, best.format, best.bytes, best.seconds_p95) == ("a", 20, "Q8_0", 6e6, 0.3)
    facts = report.study
    assert (facts.state, facts.ended_at, facts.hardware) == ("ended", "1970-01-01 00:10 UTC", ["test bench"])
    assert facts.versions == {"torch": "2.13.0"} and facts.busy_seconds == 3 * facts.jobs["done"]
    assert report.data.train == 20 and report.data.dropped == 1
    assert not report.missing and not report.parity_warnings


def test_measures_are_kept_apart_by_stratum(ended: Ended):
    report = ended.report
    rows = {(row.stratum, row.n): row for row in report.sizes}
    assert set(rows) == {(s, n) for s in ("validation", "taught", "unseen") for n in (None, 10, 20)}
    row = rows["taught", 20]
    assert row.nll and row.key_nll and row.score and row.nll.items == 6
    noise = sum(random.Random(f"{i}").gauss(0, 0.2) for i in range(0, 12, 2)) / 6
    assert row.nll.estimate == pytest.approx(4 - 1.6 + noise, abs=1e-5)
    assert row.key_nll.estimate == pytest.approx(5 - 1.6 + noise, abs=1e-5)
    assert rows["validation", 20].score is None
    shown = {(row.stratum, row.measure): row.shown_better for row in report.learning}
    assert shown["taught", "score"] and not shown["unseen", "score"]


def test_bases_and_formats_carry_facts_sizes_and_seconds(ended: Ended):
    report = ended.report
    a, b, ref = report.bases
    assert (a.base, b.base, ref.base) == ("a", "b", "ref")
    assert (a.family, a.parity_ok, a.bytes) == ("qwen2", True, 6e6)
    assert a.bits_per_byte and a.bits_per_byte_untrained and a.bits_per_byte < a.bits_per_byte_untrained
    assert ref.bits_per_byte is None and ref.bits_per_byte_untrained and ref.untrained
    assert a.seconds and a.seconds.p50 == pytest.approx(0.3) and a.seconds.count == 8
    assert [(row.format, row.kl) for row in report.formats] == [("F16", None), ("Q8_0", 0.002)]
    assert [row.prompts for row in report.formats] == [None, 4]
    assert {row.stage for row in report.timings} == {"bases", "quantization"}
    assert all(row.hardware == "test bench, on the CPU with 2 threads" for row in report.timings)


def test_example_answers_are_the_first_of_each_category(ended: Ended):
    report = ended.report
    assert [example.question for example in report.examples] == [q.question for q in QUESTIONS[:8]]
    formats = [answer.format for answer in report.examples[0].answers]
    assert formats == ["Q8_0"] * 5 + ["F16"]
    cells = [answer.cell for answer in report.examples[0].answers]
    assert cells == [
        "a n=20 seed=1", "a untrained", "b n=20 seed=1", "b untrained", "ref untrained", "a n=20 seed=1 F16",
    ]  # fmt: skip
    assert report.examples[0].reference == QUESTIONS[0].answer
    assert report.examples[0].answers[0].found == ["施設"] and report.examples[0].answers[1].missing == ["施設"]
    assert "&lt;b&gt;施設" in render_html(report)


def test_without_the_dataset_questions_are_named_by_id(ended: Ended):
    report = report_of(ended.engine, ended.study_id, ended.folder / "nowhere")
    assert [example.question for example in report.examples] == [f"b{i:02}" for i in range(8)]
    assert report.data_report is None


def test_a_failed_cell_is_missing_and_the_rest_is_reported(engine: Engine, tmp_path: Path):
    report = report_of(engine, run_study(engine, fail="b n=20 seed=1"), tmp_path)
    assert report.missing == ["bases: b n=20 seed=1 (train, score, convert, parity, answer, judge)"]
    assert "b n=20 seed=1 (train, " in " ".join(report.recommendation.caveats)
    assert report.recommendation.base == "a"


def test_a_cell_that_was_judged_names_what_else_failed(engine: Engine, tmp_path: Path):
    report = report_of(engine, run_study(engine, "b n=20 seed=1", ("parity",)), tmp_path)
    assert report.missing == ["bases: b n=20 seed=1 (parity)"]
    assert [row.base for row in report.bases if row.score] == ["a", "b"]


def test_losses_are_named_once_a_job(ended: Ended):
    caveats = ended.report.recommendation.caveats
    (dropped,) = [line for line in caveats if "without an NLL" in line]
    assert dropped.endswith(": a n=10 seed=1 (2), a n=10 seed=2 (2).")  # of validation and of test one each
    (untaught,) = [line for line in caveats if "left out of training" in line]
    assert "a n=20 seed=1 (3), " in untaught  # that job is stage 1's and stage 2's
    (cut,) = [line for line in caveats if line.startswith("Answers cut")]
    assert cut.endswith(": a untrained (4), b untrained (2), ref untrained (2).")  # a's also on the test questions


def test_what_prepare_found_is_told_in_short(ended: Ended):
    found = ended.report.data_report
    assert found
    assert [(row.what, row.count, row.examples) for row in found.dropped] == [
        ("empty question or answer", 1, ["p9"]),
        ("near-duplicate question", 4, ["p0 (bench b1)", "p1 (bench b1)", "p2 (bench b1)"]),
    ]
    assert [(row.what, row.examples) for row in found.odd] == [
        ("number that no source states", ["p7 (15m)"]),
        ("over long answer", ["p5", "p6"]),
    ]
    assert found.ignored_columns == ["note"]


def test_a_running_study_has_a_report_at_every_step(engine: Engine, tmp_path: Path):
    seen = {}
    for _ in range(6):
        report = report_of(engine, run_study(engine, steps=1), tmp_path)
        seen[len(report.verdicts)] = report
    assert set(seen) >= {0, 1, 2}
    assert seen[0].study.state == "running" and seen[0].recommendation.status == "none"
    for report in seen.values():
        assert "What this does not claim" in render_html(report)


def test_the_store_is_only_read(ended: Ended):
    with reading(ended.engine) as s:
        collect.collect(s, ended.study_id, ended.folder / "artifacts")
        assert not s.new and not s.dirty and not s.deleted
