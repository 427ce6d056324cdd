"""From the store to the scheduler: what is known of ready jobs and slots, and what attempts teach."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from jsm_queue import assigning, coordinator, costs, eta, lifecycle, protocol, waiting
from jsm_queue.assigning import remaining
from jsm_queue.kinds import KINDS, BaseFacts
from jsm_queue.lifecycle import jobs
from jsm_queue.scheduler import Offer
from jsm_queue.settings import Settings
from jsm_queue.store import costs as samples
from jsm_queue.store import pages, queries, works
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from tests.unit.studies import inputs, sha, spec

GB = 10**9
NOW = 1.0
BOOT = "b0" * 16


def slot(idx: int = 0, kind: str = "gpu", free: bool = True, **more: Any) -> protocol.SlotReport:
    value = {"idx": idx, "kind": kind, "device": kind, "vram_free": 15 * GB, "vram_total": 16 * GB, "free": free}
    return protocol.SlotReport.model_validate(value | more)


def join(engine: Engine, name: str, *slots: protocol.SlotReport, **more: Any) -> None:
    hardware = protocol.Hardware(hardware_class="A", os="x", cpu="x", cores=1, memory_bytes=1, gpus=["RTX 4060 Ti"])
    hello = protocol.HelloRequest(boot_id=BOOT, hardware=hardware.model_copy(update=more), slots=list(slots))
    with writing(engine) as session:
        session.add(t.Worker(id=name, name=name, token_hash=name, joined_at=0))
        session.flush()
        lifecycle.hello(session, session.get_one(t.Worker, name), hello, lease_s=1e12, now=NOW)


@pytest.fixture
def study(engine: Engine, tmp_path: Path) -> str:
    """One with a base of 8 billion weights, planned; its prepare is done, so trainings are ready."""
    toy = spec()
    given = inputs(toy).model_copy(update={"facts": {base.name: BaseFacts(parameters=8 * 10**9) for base in toy.bases}})
    with writing(engine) as session:
        row, _ = lifecycle.add_study(session, toy.model_dump(mode="json"), given.model_dump(mode="json"), NOW)
        row.hardware = "A"
    coordinator.tick(engine, Settings(home=tmp_path), lambda *_: None)
    with writing(engine) as session:
        prepare = session.exec(select(t.Job).where(t.Job.kind == "prepare")).one()
        jobs.set_job(session, prepare, "done", NOW)
        jobs.wake_dependents(session, prepare.id, NOW)
    return row.id


def ready(engine: Engine, kind: str = "train") -> list[Any]:
    with reading(engine) as session:
        return sorted((j for j in assigning.ready_jobs(session, NOW + 9) if j.kind == kind), key=lambda j: j.id)


def start(engine: Engine, job: str, worker: str = "w", attempt: str = "a1", now: float = 10.0) -> str:
    with writing(engine) as session:
        assert lifecycle.offer(session, Offer((job,), "train", worker, 0), "f" + attempt, [attempt], now)
        row = session.get_one(t.Worker, worker)
        lifecycle.claim(session, "f" + attempt, row, protocol.ClaimRequest(boot_id=BOOT, delivery="d" * 8), now)
    return attempt


def deliver(engine: Engine, attempt: str, seconds: Any, now: float, resumed: int = 0, **metrics: float) -> None:
    files = {role: sha(role) for role in KINDS["train"].outputs}
    result = protocol.ResultRequest(
        metrics=metrics,
        artifacts=[protocol.ArtifactIn(role=role, sha=each, size=1) for role, each in files.items()],
        provenance={"seconds": seconds, "device": "cuda:0"} | ({"resumed_from": resumed} if resumed else {}),
    )
    with writing(engine) as session:
        for each in files.values():
            lifecycle.know(session, each, 1, now)
        lifecycle.accept(session, attempt, "w", result, now)


def oom(engine: Engine, attempt: str, now: float) -> t.Job:
    with writing(engine) as session:
        lifecycle.end(session, attempt, "w", protocol.EndRequest(reason="oom", message="no room"), now)
        row = session.get_one(t.Attempt, attempt)
        session.get_one(t.Run, row.run).state = "closed"
        return session.get_one(t.Job, row.job)


def test_ready_jobs_carry_what_their_study_says_of_them(engine: Engine, study: str) -> None:
    job = ready(engine)[0]
    assert job.study == study and NOW <= job.since <= NOW + 9
    assert job.task.parameters == 8e9 and job.task.known and job.task.examples in (30, 60)
    assert job.base == inputs(spec()).bases["a"].key == job.fuses, "as runners report what they hold"


def test_a_look_reads_only_what_is_new_of_ready_jobs(
    engine: Engine, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ready(engine)
    asked: list[Any] = []
    real = queries.ready_jobs
    monkeypatch.setattr(queries, "ready_jobs", lambda session, only=None: asked.append(only) or real(session, only))
    again = ready(engine)
    assert not asked and all(old is new for old, new in zip(first, again, strict=True))
    with writing(engine) as session:
        session.get_one(t.Job, first[0].id).memory_needed = 7
        session.get_one(t.Job, first[1].id).state = "failed"
    changed = {job.id: job for job in ready(engine)}
    assert asked == [{first[0].id}]
    assert changed[first[0].id].memory_needed == 7 and first[1].id not in changed
    with writing(engine) as session:
        session.get_one(t.Study, study).priority = 5
    assert {job.priority for job in ready(engine)} == {5}


def test_a_slot_says_when_it_will_be_free(engine: Engine, study: str) -> None:
    join(engine, "w", slot(hold=None), slot(1, "cpu"))
    job = ready(engine)[0]
    start(engine, job.id, now=NOW)
    with reading(engine) as session:
        busy, idle = assigning.open_slots(session, NOW + 5)
    took = costs.prior_seconds(job.task, costs.SlotClass("gpu", "RTX 4060 Ti"))
    assert (busy.free, busy.study, busy.busy_s) == (False, study, pytest.approx(took - 5))
    assert (idle.free, idle.busy_s, idle.speed) == (True, None, costs.SlotClass("cpu", "CPU x, 1 cores"))


@pytest.mark.parametrize(
    ("whole", "elapsed", "at", "left"),
    [(100.0, 30.0, (0, 0, 0), 70.0), (100.0, 500.0, (0, 0, 0), 100.0), (100.0, 60.0, (0, 30, 40), 20.0),
     (100.0, 60.0, (20, 30, 40), 60.0), (100.0, 60.0, (0, 1, 40), 615.0),
     (100.0, 60.0, (0, 9, 0), 40.0), (30.0, 60.0, (0, 5, 1200), 14340.0)],
)  # fmt: skip
def test_how_long_a_run_still_takes(whole: float, elapsed: float, at: tuple[int, int, int], left: float) -> None:
    assert remaining(whole, elapsed, *at) == pytest.approx(left)


def beat(
    engine: Engine, attempt: str, position: int, now: float, lease_s: float = 60.0, paused: str | None = None
) -> None:
    report = protocol.AttemptReport(attempt=attempt, phase="running", position=position, total=100, paused=paused)
    request = protocol.HeartbeatRequest(boot_id=BOOT, slots=[slot(free=False)], attempts=[report])
    with writing(engine) as session:
        lifecycle.heartbeat(session, session.get_one(t.Worker, "w"), request, lease_s, now)


def awaiting(engine: Engine, job: str, now: float) -> str | None:
    with reading(engine) as session:
        return next(each.awaits for each in assigning.ready_jobs(session, now) if each.id == job)


def test_a_job_awaits_the_worker_that_went_away_with_it_for_half_an_hour(engine: Engine, study: str) -> None:
    join(engine, "w", slot())
    job = ready(engine)[0].id
    attempt = start(engine, job, attempt="a1" * 16)
    beat(engine, attempt, 40, 20.0)
    with writing(engine) as session:
        lifecycle.reap(session, 20.0, 100.0, leases=True)
    assert awaiting(engine, job, 101.0) == "w", "its lease is over, and nobody took the job"
    assert awaiting(engine, job, 80.0 + assigning.AWAIT_S + 1) is None


def test_a_job_goes_on_where_a_worker_started_anew(engine: Engine, study: str) -> None:
    join(engine, "w", slot())
    job = ready(engine)[0].id
    beat(engine, start(engine, job, attempt="a1" * 16), 40, 70.0)
    greeting = protocol.HelloRequest(
        boot_id="c1" * 16, hardware=protocol.Hardware(hardware_class="A", os="x", cpu="x", cores=1, memory_bytes=1),
        slots=[slot()],
    )  # fmt: skip
    with writing(engine) as session:
        lifecycle.hello(session, session.get_one(t.Worker, "w"), greeting, 60.0, 90.0)
    assert awaiting(engine, job, 91.0) == "w"
    with writing(engine) as session:
        session.get_one(t.Job, job).position = 35
    assert awaiting(engine, job, 91.0) is None, "the api has almost as much of it"
    with writing(engine) as session:
        session.get_one(t.Job, job).position = 0
        lifecycle.set_worker_state(session, session.get_one(t.Worker, "w"), "paused", 92.0)
    assert awaiting(engine, job, 93.0) is None, "it takes no jobs"


def test_an_accepted_attempt_is_a_sample(engine: Engine, study: str) -> None:
    join(engine, "w", slot())
    job = ready(engine)[0]
    deliver(engine, start(engine, job.id), 50.0, 100.0, peak_bytes=7.5 * GB)
    with reading(engine) as session:
        (sample,) = samples.samples(session)
    took = costs.prior_seconds(job.task, costs.SlotClass("gpu", "RTX 4060 Ti"))
    assert sample == costs.Sample("train", "a", "RTX 4060 Ti", took, 50.0, int(7.5 * GB))


def test_what_went_on_from_its_workers_own_checkpoint_is_no_sample(engine: Engine, study: str) -> None:
    join(engine, "w", slot())
    deliver(engine, start(engine, ready(engine)[0].id), 50.0, 100.0, resumed=7)
    with reading(engine) as session:
        assert samples.samples(session) == []


@pytest.mark.parametrize("seconds", [None, "5", True, -1, 0, 1e6])
def test_what_cannot_be_true_is_no_sample(engine: Engine, study: str, seconds: Any) -> None:
    """It was claimed 90 seconds ago."""
    join(engine, "w", slot())
    deliver(engine, start(engine, ready(engine)[0].id), seconds, 100.0)
    with reading(engine) as session:
        assert samples.samples(session) == []


def sample_row(attempt: str, gpu: str, at: float) -> t.CostSample:
    return t.CostSample(attempt=attempt, kind="train", base="b", gpu=gpu, work=1.0, seconds=1.0, at=at)


def test_only_the_newest_samples_of_a_kind_are_kept(engine: Engine) -> None:
    with writing(engine) as session:
        for i in range(samples.KEPT + 5):
            samples.add_sample(session, sample_row(f"a{i:02}", "g", float(i)))
        samples.add_sample(session, sample_row("x", "h", 0.0))
        kept = session.exec(select(t.CostSample.at).where(t.CostSample.gpu == "g")).all()
    assert sorted(kept) == [float(i) for i in range(5, samples.KEPT + 5)]


def test_ooms_shrink_the_plan_and_then_ask_for_a_larger_slot(engine: Engine, study: str) -> None:
    join(engine, "w", slot(vram_free=12 * GB, vram_total=12 * GB))
    join(engine, "big", slot(vram_free=20 * GB, vram_total=24 * GB))
    job = ready(engine)[0]
    assert oom(engine, start(engine, job.id, attempt="a1"), 11.0).memory_needed == 0, "a smaller plan first"
    row = oom(engine, start(engine, job.id, attempt="a2"), 12.0)
    assert (row.state, row.ooms, row.memory_needed) == ("ready", 2, int(1.05 * 12 * GB) + 1)
    with reading(engine) as session:
        learned = samples.learned(session)
        assert learned.memory(job.task, "gpu") == row.memory_needed, "its sisters go there at once"
        own = [each for each in assigning.ready_jobs(session, NOW) if each.id == job.id]
        offers = assigning.scheduler.assign(own, assigning.open_slots(session, NOW), learned)
    assert [offer.worker for offer in offers] == ["big"]


def test_where_no_slot_is_larger_the_plans_are_used_up_and_the_numbers_are_told(engine: Engine, study: str) -> None:
    join(engine, "w", slot(vram_free=8 * GB, vram_total=8 * GB))
    job = ready(engine)[0]
    rows = [oom(engine, start(engine, job.id, attempt=f"a{i}"), 11.0) for i in range(4)]
    assert all(row.memory_needed == 0 for row in rows)
    row = rows[-1]
    assert row.state == "failed"
    assert "out of memory 4 times" in (row.error or "") and "had 8.0 GB free, the largest has 8.0 GB" in (
        row.error or ""
    )


def test_a_warm_base_is_found_again(engine: Engine, study: str) -> None:
    job = ready(engine)[0]
    join(engine, "w", slot(free=False), slot(1, warm_base=job.base), slot(2))
    with reading(engine) as session:
        (offer,) = assigning.scheduler.assign([job], assigning.open_slots(session, NOW))
    assert offer.slot == 1


def test_why_reads_the_store(engine: Engine, study: str) -> None:
    job = ready(engine)[0]

    def why(job_id: str) -> str:
        with reading(engine) as session:
            return waiting.why(session, session.get_one(t.Job, job_id), NOW + 5).why

    assert why(job.id) == "no worker is here that takes jobs"
    with reading(engine) as session:
        needing = session.exec(select(t.JobNeed.job).where(t.JobNeed.needs == job.id)).first()
    assert needing and "it needs train a n=" in why(needing)
    join(engine, "w", slot())
    start(engine, job.id, now=NOW)
    assert "it runs on w since 4 s" in why(job.id) or "it runs on w since 5 s" in why(job.id)
    assert "the slot that fits is busy; the next is free in about" in why(ready(engine)[-1].id)


def test_a_spec_of_another_version_says_nothing_of_its_jobs() -> None:
    assert works.known(t.Study(id="x", name="x", spec={"name": "x"}, inputs={}, state="running", created_at=0)) is None


def test_ready_rows_name_their_study(engine: Engine, study: str) -> None:
    with reading(engine) as session:
        assert {row.study for row in queries.ready_jobs(session)} == {study}


def test_a_study_says_how_long_it_still_takes(engine: Engine, study: str) -> None:
    """Twice the cards, half the time; nobody knows without slots, nor of a study that does not run."""
    with reading(engine) as session:
        assert eta.seconds_left(session, session.get_one(t.Study, study), NOW) is None
    join(engine, "w", slot(), slot(1, "cpu", vram_total=64 * GB, vram_free=64 * GB))
    with writing(engine) as session:
        row = session.get_one(t.Study, study)
        alone = eta.seconds_left(session, row, NOW)
        lifecycle.pause_study(session, row, NOW)
        assert eta.seconds_left(session, row, NOW) is None
        lifecycle.resume_study(session, row, NOW)
    join(engine, "v", slot(), slot(1, "cpu", vram_total=64 * GB, vram_free=64 * GB))
    with reading(engine) as session:
        both = eta.seconds_left(session, session.get_one(t.Study, study), NOW)
    assert alone and both and both == pytest.approx(alone / 2)


def seconds_left(engine: Engine, study: str, now: float = NOW) -> float | None:
    with reading(engine) as session:
        return eta.seconds_left(session, session.get_one(t.Study, study), now)


def test_of_what_runs_only_the_rest_is_left(engine: Engine, study: str) -> None:
    join(engine, "w", slot(), slot(1, "cpu", vram_total=64 * GB, vram_free=64 * GB))
    before = seconds_left(engine, study)
    attempt = start(engine, ready(engine)[0].id, attempt="a1a1a1a1", now=NOW)
    beat(engine, attempt, 50, NOW + 4000)
    begun, later = seconds_left(engine, study, NOW), seconds_left(engine, study, NOW + 4000)
    assert before and begun and later and begun < 1.2 * before
    beat(engine, attempt, 99, NOW + 4000)
    nearly = seconds_left(engine, study, NOW + 4000)
    assert nearly and later - nearly == pytest.approx(1.15 * (4000 - 4000 / 99), rel=0.01)


def test_nobody_knows_when_a_job_ends_that_stands_still(engine: Engine, study: str) -> None:
    """Nor when the slot on which it does takes others."""
    join(engine, "w", slot(), slot(1, "cpu", vram_total=64 * GB, vram_free=64 * GB))
    attempt = start(engine, ready(engine)[0].id, attempt="a1a1a1a1", now=NOW)
    beat(engine, attempt, 50, NOW + 40)
    assert seconds_left(engine, study, NOW + 40)
    beat(engine, attempt, 50, NOW + 40, paused="on battery")
    assert seconds_left(engine, study, NOW + 40) is None
    with reading(engine) as session:
        (row,) = pages.job_rows(session, study, "active", "", 9)
    assert row["paused"] == "on battery"


def test_a_judge_that_is_away_is_asked_again_later_and_not_until_quarantine(engine: Engine, study: str) -> None:
    with writing(engine) as session:
        train = session.exec(select(t.StudyJob).where(t.StudyJob.study == study)).first()
        assert train is not None
        for name, kind in (("a" * 64, "openai"), ("b" * 64, "key_facts")):
            row = t.Job(id=name, kind="judge", params={"judge": {"kind": kind}}, state="ready", created_at=1, charges=1)
            session.add(row)
            session.add(t.Worker(id=name[:8], name=name[:8], token_hash=name, joined_at=0))
            session.flush()
            session.add(t.StudyJob.model_validate(train.model_dump() | {"job": name}))
            session.add(t.Run(id=name, worker=name[:8], slot=0, state="closed", offered_at=10))
            session.flush()
            ended = {"state": "ended", "reason": "crashed", "offered_at": 10, "ended_at": 100}
            session.add(t.Attempt(id=name, job=name, run=name, worker=name[:8], **ended))

    def offered(now: float) -> set[str]:
        with reading(engine) as session:
            return {job.id[0] for job in assigning.ready_jobs(session, now) if job.kind == "judge"}

    assert offered(101) == {"b"}
    with reading(engine) as session:
        said = waiting.why(session, session.get_one(t.Job, "a" * 64), 101).why
    assert said == "its judge's server was away; it is asked again in about 2 min"
    assert offered(219) == {"b"}
    assert offered(220) == {"a", "b"}
    with writing(engine) as session:
        session.get_one(t.Job, "a" * 64).charges = 2
    assert offered(699) == {"b"}
    assert offered(700) == {"a", "b"}


def test_a_queue_that_is_away_is_asked_once_in_a_look(engine: Engine, study: str) -> None:
    asked: list[str] = []

    def away(worker: str, *_: object) -> None:
        asked.append(worker)
        raise OSError("no route")

    for name in ("v", "w"):
        join(engine, name, slot())
    assigning.assign(engine, away, NOW)
    assert len(asked) == 1, "each would have to wait for it as long"
    assigning.assign(engine, lambda worker, *_: asked.append(worker), NOW)
    assert sorted(asked) == ["v", "w"], "the other is asked with the next look"
