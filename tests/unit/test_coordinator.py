"""Rounds of the coordinator on a real store, and which studies it plans in them."""

import random
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete
from sqlalchemy.exc import OperationalError
from sqlmodel import col, select

from jsm_queue import coordinator, lifecycle, planner, protocol
from jsm_queue.lifecycle.jobs import set_job
from jsm_queue.protocol import Bell
from jsm_queue.settings import Settings
from jsm_queue.store import looks, queries
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from tests.unit.studies import inputs, spec

NOW = 1.0


@pytest.fixture
def engine(engine: Engine) -> Engine:
    hardware = protocol.Hardware(hardware_class="A", os="x", cpu="x", cores=1, memory_bytes=1)
    slots = [protocol.SlotReport(idx=0, kind="cpu", device="cpu", vram_free=1, free=True)]
    hello = protocol.HelloRequest(boot_id="b0" * 16, hardware=hardware, slots=slots, undelivered=[])
    with writing(engine) as session:
        session.add(t.Worker(id="w0", name="w0", token_hash="0", joined_at=0))
        session.flush()
        lifecycle.hello(session, session.get_one(t.Worker, "w0"), hello, lease_s=1e12, now=NOW)
    return engine


def submit(engine: Engine, name: str) -> str:
    toy = spec(name=name)
    with writing(engine) as session:
        row, _ = lifecycle.add_study(session, toy.model_dump(mode="json"), inputs(toy).model_dump(mode="json"), NOW)
        return row.id


def test_a_study_that_cannot_be_planned_keeps_no_other_from_its_slots(engine: Engine, tmp_path: Path) -> None:
    broken, sound = submit(engine, "broken"), submit(engine, "sound")
    with writing(engine) as session:
        session.get_one(t.Study, broken).spec = {"name": "of another version"}
    rung: list[tuple[str, str, Bell]] = []
    for _ in range(2):
        coordinator.tick(engine, Settings(home=tmp_path), lambda *bell: rung.append(bell))
    assert [(worker, kind, bell.study) for worker, kind, bell in rung] == [("w0", "prepare", "sound")]
    with reading(engine) as session:
        listed = session.exec(select(t.StudyJob.study)).all()
    assert set(listed) == {sound}


def test_a_store_that_cannot_be_used_is_told_in_one_line_until_it_can(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wake, stop, away = threading.Event(), threading.Event(), threading.Event()
    real, seen = coordinator.tick, list[bool]()

    def full_twice(*arguments: Any) -> int:
        seen.append(away.is_set())
        if len(seen) <= 2:
            raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
        stop.set()
        return real(*arguments)

    monkeypatch.setattr(coordinator, "tick", full_twice)
    caplog.set_level("INFO")
    coordinator.loop(engine, Settings(home=tmp_path, tick_s=0.01), lambda *_: None, wake, stop, away)
    assert seen == [False, True, True] and not away.is_set()
    told = [record.message for record in caplog.records if record.name == coordinator.__name__]
    assert told == [
        "the store cannot be used (database or disk is full); it is tried again",
        "the store can be used again",
    ]
    assert "Traceback" not in caplog.text


def tick(engine: Engine, folder: Path, seen: int = -1) -> int:
    return coordinator.tick(engine, Settings(home=folder), lambda *_: None, seen)


def to_plan(engine: Engine, seen: int) -> set[str]:
    with reading(engine) as session:
        return set(looks.studies_to_plan(session, seen))


def open_jobs(engine: Engine, study: str, kind: str) -> list[str]:
    listed = select(t.StudyJob.job).where(t.StudyJob.study == study)
    query = select(t.Job.id).where(col(t.Job.id).in_(listed), t.Job.kind == kind, t.Job.state != "done")
    with reading(engine) as session:
        return list(session.exec(query.order_by(t.Job.id)))


def finish(engine: Engine, jobs: Iterable[str]) -> int:
    """Ends them. Returns the newest event before that."""
    with writing(engine) as session:
        before = queries.last_event(session)
        for job in jobs:
            set_job(session, session.get_one(t.Job, job), "done", NOW)
        return before


def test_a_study_is_planned_when_the_last_job_of_a_kind_in_a_stage_ended(engine: Engine, tmp_path: Path) -> None:
    study, other = submit(engine, "one"), submit(engine, "two")  # they share all jobs but latency
    seen = tick(engine, tmp_path)
    assert to_plan(engine, seen) == set(), "all that it listed is open"
    first, *rest = open_jobs(engine, study, "train")
    seen = finish(engine, [first])
    assert to_plan(engine, seen) == set(), "others are open"
    finish(engine, rest)
    assert to_plan(engine, seen) == {study, other}
    with writing(engine) as session:
        session.connection().execute(delete(t.Event))
    assert to_plan(engine, -1) == {study, other}, "who starts anew looks at all, whatever the log says"
    with writing(engine) as session:
        lifecycle.cancel_study(session, session.get_one(t.Study, other), NOW)
    assert to_plan(engine, -1) == {study}


def test_a_study_that_goes_on_or_waits_for_a_worker_is_planned(engine: Engine, tmp_path: Path) -> None:
    study = submit(engine, "one")
    with reading(engine) as session:
        seen = queries.last_event(session)
    assert to_plan(engine, seen) == {study}, "no class of hardware yet"
    for _ in range(2):
        seen = tick(engine, tmp_path, seen)
    assert to_plan(engine, seen) == set()
    with writing(engine) as session:
        lifecycle.pause_study(session, session.get_one(t.Study, study), NOW)
    assert to_plan(engine, seen) == set()
    with writing(engine) as session:
        lifecycle.resume_study(session, session.get_one(t.Study, study), NOW)
    assert to_plan(engine, seen) == {study}


def test_a_tick_plans_only_what_may_have_changed(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = submit(engine, "one")
    planned: list[str] = []
    plan = planner.plan
    monkeypatch.setattr(planner, "plan", lambda of: planned.append(of.id) or plan(of))
    seen = tick(engine, tmp_path, tick(engine, tmp_path))
    assert set(planned) == {study}
    planned.clear()
    first, *rest = open_jobs(engine, study, "score")
    finish(engine, [first])
    seen = tick(engine, tmp_path, seen)
    assert not planned
    finish(engine, rest)
    tick(engine, tmp_path, seen)
    assert set(planned) == {study}


def groups(study: planner.Plan, job: str) -> set[tuple[str, str]]:
    return {(wanted.stage, wanted.job.kind) for wanted in study.jobs if wanted.job.id == job}


@pytest.mark.parametrize("seed", range(4))
def test_a_plan_asks_of_states_only_whether_a_kind_in_a_stage_is_terminal(seed: int) -> None:
    """What `looks` rests on. Jobs end in a random order, some of them badly."""
    rng = random.Random(seed)
    toy = spec()
    states: dict[str, str] = {}
    decisions: dict[str, dict[str, Any]] = {}
    verdicts = {"scale": {"n": 10}, "bases": {"chosen": ["a"]}, "quantization": {}}
    changes = 0

    def look() -> planner.Plan:
        return planner.plan(planner.Study("s", toy, inputs(toy), "A", states, decisions))

    def settle() -> planner.Plan:
        while True:
            plan = look()
            new = {wanted.job.id for wanted in plan.jobs} - states.keys()
            if not new and not plan.due:
                return plan
            states.update(dict.fromkeys(sorted(new), "ready"))
            decisions.update({stage: verdicts[stage] for stage in plan.due})

    plan = settle()
    while not plan.ended:
        job = rng.choice(sorted(job for job, state in states.items() if state == "ready"))
        states[job] = rng.choice(["done", "done", "done", "failed", "skipped"])
        still_open = {group for other, state in states.items() if state == "ready" for group in groups(plan, other)}
        if look() != plan:
            changes += 1
            assert groups(plan, job) - still_open, f"{job} was not the last of its kind"
        plan = settle()
    assert changes >= 3


def test_a_plan_that_broke_off_is_listed_as_a_whole_later(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator, "LISTED_AT_ONCE", 5)
    whole, study = lifecycle.list_jobs, submit(engine, "one")
    sizes: list[int] = []

    def once(session: Any, study_id: str, wanted: Any, now: float) -> int:
        if sizes:
            raise RuntimeError("killed")
        sizes.append(len(wanted))
        return whole(session, study_id, wanted, now)

    monkeypatch.setattr(lifecycle, "list_jobs", once)
    tick(engine, tmp_path)
    with reading(engine) as session:
        assert len(queries.listings(session, study)) == sizes[0] == 5
    monkeypatch.setattr(lifecycle, "list_jobs", whole)
    tick(engine, tmp_path)
    with reading(engine) as session:
        row = session.get_one(t.Study, study)
        plan = planner.plan(coordinator._planner_view(session, row, "A"))
        assert queries.listings(session, study) == {wanted.listing for wanted in plan.jobs}
