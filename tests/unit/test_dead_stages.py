"""A stage whose every cell failed: real ticks of the coordinator on SQLite, and a worker that cannot do some kinds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from jsm_queue import coordinator, lifecycle, planner, protocol
from jsm_queue.cli import view
from jsm_queue.kinds import KINDS
from jsm_queue.protocol import Bell
from jsm_queue.report.html import render_html
from jsm_queue.report.markdown import render_markdown
from jsm_queue.settings import Settings
from jsm_queue.spec import StudySpec
from jsm_queue.store import queries
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, reading, writing
from tests.unit.studies import inputs, sha, spec
from tests.unit.test_report_collect import result
from tests.unit.test_stages import report_of, snapshot

BOOT = "b0" * 16
SLOTS = [protocol.SlotReport(idx=0, kind="cpu", device="cpu", vram_free=1, free=True)]
NOW = 1.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_store(f"sqlite:///{(tmp_path / 'store.sqlite').as_posix()}")
    hardware = protocol.Hardware(hardware_class="A", os="x", cpu="x", cores=1, memory_bytes=1)
    hello = protocol.HelloRequest(boot_id=BOOT, hardware=hardware, slots=SLOTS, undelivered=[])
    with writing(engine) as session:
        session.add(t.Worker(id="w0", name="w0", token_hash="0", joined_at=0))
        session.add_all(t.Artifact(sha=sha(f"out {kind}"), size=1, created_at=0) for kind in KINDS)
        session.flush()
        lifecycle.hello(session, session.get_one(t.Worker, "w0"), hello, lease_s=1e12, now=NOW)
    yield engine
    engine.dispose()


def run(engine: Engine, folder: Path, toy: StudySpec, dead: set[tuple[str, str]]) -> str:
    """Ticks until the study ended; the worker ends jobs of the `dead` (stage, kind) with an error. Returns its id."""
    with writing(engine) as session:
        row, _ = lifecycle.add_study(session, toy.model_dump(mode="json"), inputs(toy).model_dump(mode="json"), NOW)
        study_id = row.id
    rung: list[Bell] = []
    for _ in range(300):
        coordinator.tick(engine, Settings(home=folder), lambda _worker, _kind, bell: rung.append(bell))
        with reading(engine) as session:
            if session.get_one(t.Study, study_id).state == "ended":
                return study_id
        while rung:
            work(engine, rung.pop(), dead)
    raise AssertionError("the study did not end")


def work(engine: Engine, bell: Bell, dead: set[tuple[str, str]]) -> None:
    """Claim a run, deliver what its kind delivers or end it with an error, and report the slot free."""
    with writing(engine) as session:
        worker = session.get_one(t.Worker, "w0")
        _, (attempt,) = lifecycle.claim(
            session, bell.run, worker, protocol.ClaimRequest(boot_id=BOOT, delivery="d0" * 16), NOW
        )
        job = session.get_one(t.Job, attempt.job)
        listing = queries.first_listing(session, job.id)
        if (listing.stage, job.kind) in dead:
            error = protocol.EndRequest(reason="error", message="no such thing")
            lifecycle.end(session, attempt.id, "w0", error, NOW)
        else:
            lifecycle.accept(session, attempt.id, "w0", delivered(job, listing), NOW)
        freed = [SLOTS[0].model_copy(update={"run": bell.run})]
        lifecycle.heartbeat(session, worker, protocol.HeartbeatRequest(boot_id=BOOT, slots=freed), 1e12, NOW)


def delivered(job: t.Job, listing: t.StudyJob) -> protocol.ResultRequest:
    cell = planner.Cell("bases", listing.base, listing.n, listing.seed, listing.format) if listing.base else None
    records, metrics = result(job, cell)
    file: dict[str, Any] = {"sha": sha(f"out {job.kind}"), "size": 1}
    return protocol.ResultRequest(
        records=[protocol.RecordIn(item=i, name=name, value=value, meta=meta) for i, name, value, meta in records],
        metrics=metrics,
        artifacts=[protocol.ArtifactIn(role=role, **file) for role in KINDS[job.kind].outputs],
    )


STAGES = {
    "scale": {"base": "a", "sizes": [10, 20], "seeds": [1]},
    "bases": {"seeds": [1]},
    "quantization": {"formats": ["F16", "Q8_0"]},
}
ALONE = {"bases": ["a"], "n": 10, "seeds": [1], "formats": ["F16", "Q8_0"]}
NONE = "No recommendation: stage {} has no result, because its jobs failed."


@pytest.mark.parametrize(
    ("stages", "dead", "verdicts", "sentence"),
    [
        (STAGES, {("scale", "prepare")}, {"scale": "failed"}, NONE.format("scale")),
        (STAGES, {("scale", "score"), ("scale", "train")}, {"scale": "failed"}, NONE.format("scale")),
        (
            STAGES,
            {("bases", "judge"), ("scale", "judge")},
            {"scale": "decided", "bases": "failed"},
            NONE.format("bases"),
        ),
        ({"bases": STAGES["bases"] | {"n": 10}}, {("bases", "train")}, {"bases": "failed"}, NONE.format("bases")),
        ({"quantization": ALONE}, {("quantization", "train")}, {"quantization": "failed"}, NONE.format("quantization")),
        (
            STAGES | {"quantization": {"formats": ["Q5_K_M", "Q4_K_M"]}},
            {("quantization", "convert")},
            {"scale": "decided", "bases": "decided", "quantization": "failed"},
            "Deploy a, fine-tuned on 20 examples, as Q8_0: ",
        ),
    ],
    ids=["data", "scale", "bases", "bases alone", "quantization alone", "quantization"],
)
def test_a_stage_without_a_result_ends_the_study_which_says_so(
    engine: Engine,
    tmp_path: Path,
    stages: dict[str, Any],
    dead: set[tuple[str, str]],
    verdicts: dict[str, str],
    sentence: str,
) -> None:
    study_id = run(engine, tmp_path, spec(stages=stages), dead)
    report = report_of(engine, study_id, tmp_path)
    assert {verdict.stage: verdict.status for verdict in report.verdicts} == verdicts
    assert report.recommendation.sentence.startswith(sentence)
    never = [stage for stage in stages if stage not in verdicts]
    for text in (render_html(report), render_markdown(report)):
        assert "Not measured, because a job failed" in text and "failed: nothing was measured" in text
        assert text.count("the whole stage, for the one before it has no result") == len(never)
    now = snapshot(engine, study_id)
    assert now.study["stage"] == "ended"
    shown = [line.plain for line in view.screen(now, 0, 1)]
    assert sum("VERDICT  failed: nothing was measured" in line for line in shown) == 1
    assert sum("not run: the stage before it has no result" in line for line in shown) == len(never)
    assert "failed for good" in (view.lost_line(now.study, "study.yaml") or "")


def test_an_adapters_cells_are_known_by_their_label(engine: Engine, tmp_path: Path) -> None:
    """The store has no column for it; the verdict must still rank it."""
    mine = {"name": "mine", "source": "bases/a", "train": False, "adapter": "./mine"}
    study_id = run(engine, tmp_path, spec(stages={"bases": {}}, bases=[mine]), set())
    with reading(engine) as session:
        (row,) = session.exec(select(t.VerdictRow).where(t.VerdictRow.study == study_id)).all()
    assert row.decision["chosen"] == ["mine"] and row.evidence["bases"][0]["adapter"] is True
    assert row.evidence["bases"][0]["untrained"] and row.evidence["bases"][0]["n"] is None
