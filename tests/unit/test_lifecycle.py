"""The lifecycle on a real SQLite store: what DESIGN §8 promises, and what comes too late."""

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from jsm_queue import lifecycle, protocol
from jsm_queue.errors import ConflictError, GoneError
from jsm_queue.kinds import KINDS, JobDraft
from jsm_queue.planner import Cell, Wanted
from jsm_queue.scheduler import Offer
from jsm_queue.store import queries
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from tests.unit.studies import inputs, sha, spec

A = JobDraft("convert", {"x": 1})
B = JobDraft("answer", {"x": 2}, {"gguf": A.id})
C = JobDraft("judge", {"x": 3}, {"answers": B.id})
CELL = Cell("bases", "a")
BOOT = "b0" * 16
LEASE = 60.0


@pytest.fixture
def engine(engine: Engine) -> Engine:
    with writing(engine) as s:
        s.add(t.Worker(id="w0", name="w0", token_hash="0", joined_at=0))
        s.add(t.Worker(id="w1", name="w1", token_hash="1", joined_at=0))
        s.flush()
        for worker in ("w0", "w1"):
            lifecycle.hello(s, s.get_one(t.Worker, worker), greeting(BOOT), LEASE, 0.0)
    submit(engine, "s")
    return engine


def submit(engine: Engine, name: str) -> str:
    toy = spec(name=name)
    with writing(engine) as s:
        study, _ = lifecycle.add_study(s, toy.model_dump(mode="json"), inputs(toy).model_dump(mode="json"), 0.0)
        lifecycle.list_jobs(s, study.id, [Wanted("bases", CELL, job) for job in (A, B, C)], 0.0)
        return study.id


def greeting(boot: str, undelivered: list[str] | None = None) -> protocol.HelloRequest:
    hardware = protocol.Hardware(hardware_class="A", os="x", cpu="x", cores=1, memory_bytes=1)
    slots = [protocol.SlotReport(idx=0, kind="cpu", device="cpu", vram_free=1, free=True)]
    return protocol.HelloRequest(boot_id=boot, hardware=hardware, slots=slots, undelivered=undelivered or [])


def state(engine: Engine, job: JobDraft) -> str:
    with reading(engine) as s:
        return s.get_one(t.Job, job.id).state


def start(engine: Engine, job: JobDraft, worker: str = "w0", attempt: str = "a0", now: float = 1.0) -> str:
    """Offer and claim; returns the attempt's id."""
    with writing(engine) as s:
        assert lifecycle.offer(s, Offer((job.id,), job.kind, worker, 0), "r" + attempt, [attempt], now)
        boot = s.get_one(t.Worker, worker).boot_id or ""
        lifecycle.claim(
            s,
            "r" + attempt,
            s.get_one(t.Worker, worker),
            protocol.ClaimRequest(boot_id=boot, delivery="d0" * 8),
            now,
        )
    return attempt


def free(engine: Engine, worker: str, run: str, now: float = 2.0) -> None:
    report = protocol.SlotReport(idx=0, kind="cpu", device="cpu", vram_free=1, free=True)
    report = report.model_copy(update={"run": run})
    with writing(engine) as s:
        row = s.get_one(t.Worker, worker)
        beat = protocol.HeartbeatRequest(boot_id=row.boot_id or "", slots=[report])
        lifecycle.heartbeat(s, row, beat, LEASE, now)


def result(engine: Engine, job: JobDraft) -> protocol.ResultRequest:
    roles = KINDS[job.kind].outputs
    with writing(engine) as s:
        for role in roles:
            if s.get(t.Artifact, sha(role)) is None:
                s.add(t.Artifact(sha=sha(role), size=1, created_at=0))
    return protocol.ResultRequest(
        records=[protocol.RecordIn(item="q1", name="score", value=2.0)],
        metrics={"score": 2.0},
        artifacts=[protocol.ArtifactIn(role=role, sha=sha(role), size=1) for role in roles],
    )


def accept(engine: Engine, job: JobDraft, attempt: str, worker: str = "w0") -> bool:
    outcome = result(engine, job)
    with writing(engine) as s:
        return lifecycle.accept(s, attempt, worker, outcome, 3.0)


def end(engine: Engine, attempt: str, reason: protocol.EndReason, worker: str = "w0") -> None:
    with writing(engine) as s:
        lifecycle.end(s, attempt, worker, protocol.EndRequest(reason=reason, message="why"), 3.0)


def records(engine: Engine) -> int:
    with reading(engine) as s:
        return len(s.exec(select(t.Record)).all())


def test_needs_decide_who_is_ready(engine: Engine) -> None:
    assert [state(engine, job) for job in (A, B, C)] == ["ready", "waiting", "waiting"]
    accept(engine, A, start(engine, A))
    assert [state(engine, job) for job in (A, B, C)] == ["done", "ready", "waiting"]


def test_a_result_is_accepted_once_and_a_replay_changes_nothing(engine: Engine) -> None:
    attempt = start(engine, A)
    assert accept(engine, A, attempt) is True
    assert accept(engine, A, attempt) is False
    assert records(engine) == 1


def test_one_live_attempt_a_job_and_one_run_a_slot(engine: Engine) -> None:
    start(engine, A)
    with writing(engine) as s:
        assert not lifecycle.offer(s, Offer((A.id,), A.kind, "w1", 0), "r9", ["a9"], 1.0)
    with writing(engine) as s:
        s.get_one(t.Job, B.id).state = "ready"
    with writing(engine) as s:
        assert not lifecycle.offer(s, Offer((B.id,), B.kind, "w0", 0), "r8", ["a8"], 1.0)


def test_the_same_delivery_gets_the_same_claim_and_another_gets_409(engine: Engine) -> None:
    start(engine, A)
    with writing(engine) as s:
        worker = s.get_one(t.Worker, "w0")
        again = lifecycle.claim(s, "ra0", worker, protocol.ClaimRequest(boot_id=BOOT, delivery="d0" * 8), 2.0)
        assert [attempt.id for attempt in again[1]] == ["a0"]
        with pytest.raises(ConflictError):
            lifecycle.claim(s, "ra0", worker, protocol.ClaimRequest(boot_id=BOOT, delivery="d1" * 8), 2.0)


def test_an_unclaimed_offer_ends_and_frees_job_and_slot(engine: Engine) -> None:
    with writing(engine) as s:
        lifecycle.offer(s, Offer((A.id,), A.kind, "w0", 0), "r0", ["a0"], 1.0)
        assert lifecycle.reap(s, offer_s=20, now=15.0, leases=True) == 0
        assert lifecycle.reap(s, offer_s=20, now=22.0, leases=True) == 1
    assert state(engine, A) == "ready"
    start(engine, A, attempt="a1")


def attempt_of(engine: Engine, attempt: str) -> t.Attempt:
    with reading(engine) as s:
        return s.get_one(t.Attempt, attempt)


def expire(engine: Engine, now: float = LEASE + 2) -> int:
    with writing(engine) as s:
        return lifecycle.reap(s, 20, now, leases=True)


def beat(
    engine: Engine, attempt: str, phase: protocol.Phase = "running", worker: str = "w0", now: float = 70.0
) -> None:
    """A heartbeat of a worker whose slot is taken by that attempt."""
    busy = protocol.SlotReport(idx=0, kind="cpu", device="cpu", vram_free=1, free=False)
    seen = protocol.AttemptReport(attempt=attempt, phase=phase)
    with writing(engine) as s:
        row = s.get_one(t.Worker, worker)
        request = protocol.HeartbeatRequest(boot_id=row.boot_id or "", slots=[busy], attempts=[seen])
        lifecycle.heartbeat(s, row, request, LEASE, now)


def test_an_expired_lease_makes_suspect_and_the_late_result_still_counts(engine: Engine) -> None:
    attempt = start(engine, A)
    with writing(engine) as s:
        assert lifecycle.reap(s, 20, LEASE + 2, leases=False) == 0
    assert expire(engine) == 1
    assert (state(engine, A), attempt_of(engine, attempt).state) == ("ready", "suspect")
    assert accept(engine, A, attempt) is True
    assert state(engine, A) == "done"


@pytest.mark.parametrize("phase", ["running", "delivering"])
def test_a_heartbeat_revives_a_suspect_that_nobody_replaced(engine: Engine, phase: protocol.Phase) -> None:
    attempt = start(engine, A, attempt="a0" * 8)
    expire(engine)
    beat(engine, attempt, phase)
    assert (state(engine, A), attempt_of(engine, attempt).state) == ("active", phase)


def test_a_successor_ends_the_suspect_and_a_heartbeat_does_not_bring_it_back(engine: Engine) -> None:
    old = start(engine, A, attempt="a0" * 8)
    expire(engine)
    start(engine, A, worker="w1", attempt="a1" * 8, now=65.0)
    beat(engine, old)
    assert (attempt_of(engine, old).state, attempt_of(engine, old).reason) == ("ended", "lost")
    assert state(engine, A) == "active"


def test_the_slot_of_a_suspect_is_not_offered(engine: Engine) -> None:
    start(engine, A)
    expire(engine)
    with writing(engine) as s:
        assert not lifecycle.offer(s, Offer((A.id,), A.kind, "w0", 0), "r9", ["a9"], 65.0)
    assert state(engine, A) == "ready"


def test_the_first_complete_result_wins_over_a_live_successor(engine: Engine) -> None:
    old = start(engine, A)
    end(engine, old, "lost")
    start(engine, A, worker="w1", attempt="a1")
    assert accept(engine, A, old) is True
    with reading(engine) as s:
        assert s.get_one(t.Attempt, "a1").reason == "superseded"
    with pytest.raises(ConflictError):
        accept(engine, A, "a1", worker="w1")
    assert records(engine) == 1


def test_a_foreign_or_incomplete_result_is_refused(engine: Engine) -> None:
    attempt = start(engine, A)
    with pytest.raises(ConflictError):
        accept(engine, A, attempt, worker="w1")
    with pytest.raises(ConflictError), writing(engine) as s:
        lifecycle.accept(s, attempt, "w0", protocol.ResultRequest(), 3.0)
    assert state(engine, A) == "active"


def test_an_error_fails_the_job_and_skips_all_that_waits_for_it(engine: Engine) -> None:
    end(engine, start(engine, A), "error")
    assert [state(engine, job) for job in (A, B, C)] == ["failed", "skipped", "skipped"]


def test_three_crashes_quarantine_only_on_two_workers(engine: Engine) -> None:
    for i, worker in enumerate(["w0", "w0", "w0", "w1"]):
        assert state(engine, A) == "ready"
        end(engine, start(engine, A, worker, f"a{i}", now=float(i)), "crashed", worker)
        free(engine, worker, f"ra{i}")
    assert [state(engine, job) for job in (A, B, C)] == ["quarantined", "skipped", "skipped"]


def test_a_late_result_of_a_quarantined_job_brings_its_dependents_back(engine: Engine) -> None:
    first = start(engine, A)
    end(engine, first, "lost")
    free(engine, "w0", "ra0")
    for i, worker in enumerate(["w0", "w1", "w0"], start=1):
        end(engine, start(engine, A, worker, f"a{i}"), "crashed", worker)
        free(engine, worker, f"ra{i}")
    assert state(engine, A) == "quarantined"
    accept(engine, A, first)
    assert [state(engine, job) for job in (A, B, C)] == ["done", "ready", "waiting"]


def test_hello_ends_what_ran_and_keeps_what_is_finished(engine: Engine) -> None:
    start(engine, A, attempt="a0" * 8)
    with writing(engine) as s:
        worker = s.get_one(t.Worker, "w0")
        assert lifecycle.hello(s, worker, greeting("b1" * 16, ["a0" * 8]), LEASE, 2.0) == []
    with reading(engine) as s:
        assert s.get_one(t.Attempt, "a0" * 8).state == "delivering"
    with writing(engine) as s:
        lifecycle.hello(s, s.get_one(t.Worker, "w0"), greeting("b2" * 16), LEASE, 3.0)
    assert state(engine, A) == "ready"
    with writing(engine) as s, pytest.raises(GoneError):
        lifecycle.check_session(s.get_one(t.Worker, "w0"), BOOT)


def test_a_report_from_before_the_claim_does_not_close_the_run(engine: Engine) -> None:
    start(engine, A)
    free(engine, "w0", "r-earlier")
    with reading(engine) as s:
        assert s.get_one(t.Run, "ra0").state == "claimed"
    free(engine, "w0", "ra0")
    with reading(engine) as s:
        assert s.get_one(t.Run, "ra0").state == "closed"


def test_a_job_that_two_studies_want_survives_the_cancelling_of_one(engine: Engine) -> None:
    start(engine, A)
    other = submit(engine, "other")
    with writing(engine) as s:
        first = next(study for study in queries.studies(s) if study.id != other)
        lifecycle.cancel_study(s, first, 2.0)
    with reading(engine) as s:
        assert queries.desired(s, "w0") == {"a0": "run"}
    with writing(engine) as s:
        lifecycle.cancel_study(s, s.get_one(t.Study, other), 2.0)
    with reading(engine) as s:
        assert queries.desired(s, "w0") == {"a0": "stop"}
        assert queries.ready_jobs(s) == []


def test_a_new_study_revives_what_failed_for_another(engine: Engine) -> None:
    end(engine, start(engine, A), "error")
    free(engine, "w0", "ra0")
    submit(engine, "other")
    assert [state(engine, job) for job in (A, B, C)] == ["ready", "waiting", "waiting"]


def test_event_numbers_have_no_gaps(engine: Engine) -> None:
    accept(engine, A, start(engine, A))
    with reading(engine) as s:
        numbers = [event.seq for event in s.exec(select(t.Event).order_by(t.Event.seq)).all()]  # type: ignore[arg-type]
    assert numbers == list(range(1, len(numbers) + 1))


def test_an_offer_that_a_late_result_supersedes_gives_its_slot_back(engine: Engine) -> None:
    first = start(engine, A)
    end(engine, first, "lost")
    with writing(engine) as s:
        assert lifecycle.offer(s, Offer((A.id,), A.kind, "w1", 0), "r1", ["a1"], 2.0)
    accept(engine, A, first)
    start(engine, B, worker="w1", attempt="a2")


def test_what_another_study_wants_too_goes_on_when_one_is_paused(engine: Engine) -> None:
    other = submit(engine, "other")
    start(engine, A)
    with writing(engine) as s:
        first = s.exec(select(t.Study.id).where(t.Study.id != other)).one()
        lifecycle.pause_study(s, s.get_one(t.Study, first), 2.0)
        assert (queries.active_elsewhere(s, first), queries.active_elsewhere(s, other)) == (1, 0)
        lifecycle.pause_study(s, s.get_one(t.Study, other), 2.0)
        assert queries.active_elsewhere(s, first) == 0


def test_a_restored_store_says_what_of_that_which_runs_it_would_not_take(engine: Engine) -> None:
    started = start(engine, A)
    running = greeting("c1" * 16).model_copy(update={"running": [started, "f9f9f9f9"]})
    with writing(engine) as s:
        assert lifecycle.hello(s, s.get_one(t.Worker, "w0"), running, LEASE, 2.0) == ["f9f9f9f9"]


def test_what_a_worker_dropped_without_a_word_is_lost(engine: Engine) -> None:
    start(engine, A)
    free(engine, "w0", "ra0")
    assert state(engine, A) == "ready"
    with reading(engine) as s:
        assert s.get_one(t.Attempt, "a0").reason == "lost"


def test_a_result_that_waits_on_the_workers_disk_is_not_lost(engine: Engine) -> None:
    attempt = start(engine, A, attempt="a0" * 16)
    report = protocol.SlotReport(idx=0, kind="cpu", device="cpu", vram_free=1, free=True, run="0" * 32)
    held = protocol.AttemptReport(attempt=attempt, phase="delivering")
    with writing(engine) as s:
        s.get_one(t.Run, "r" + attempt).state = "closed"
    with writing(engine) as s:
        beat = protocol.HeartbeatRequest(boot_id=BOOT, slots=[report], attempts=[held])
        lifecycle.heartbeat(s, s.get_one(t.Worker, "w0"), beat, LEASE, 2.0)
    assert state(engine, A) == "active"
    assert accept(engine, A, attempt) is True


def lose(engine: Engine, times: int, begin: int = 0) -> None:
    for i in range(begin, begin + times):
        end(engine, start(engine, A, attempt=f"a{i}", now=float(i)), "lost")
        free(engine, "w0", f"ra{i}")


def test_five_losses_in_a_row_quarantine_and_a_revived_job_begins_to_count_anew(engine: Engine) -> None:
    lose(engine, 4)
    end(engine, start(engine, A, attempt="a4"), "released")
    free(engine, "w0", "ra4")
    lose(engine, 4, begin=5)
    assert state(engine, A) == "ready"
    lose(engine, 1, begin=9)
    assert state(engine, A) == "quarantined"
    submit(engine, "other")
    lose(engine, 1, begin=10)
    assert state(engine, A) == "ready"


def test_a_job_for_one_class_of_machine_is_quarantined_by_that_class_alone(engine: Engine) -> None:
    pinned = JobDraft("convert", {"hardware": "B"})
    with writing(engine) as s:
        worker = s.get_one(t.Worker, "w1")
        worker.hardware = {"hardware_class": "B"}
        study = s.exec(select(t.Study)).one()
        lifecycle.list_jobs(s, study.id, [Wanted("bases", CELL, pinned)], 0.0)
    for i in range(3):
        end(engine, start(engine, pinned, "w1", f"a{i}", now=float(i)), "crashed", "w1")
        free(engine, "w1", f"ra{i}")
    assert state(engine, pinned) == "quarantined"


def test_an_offer_that_its_worker_never_saw_is_unclaimed_at_its_next_start(engine: Engine) -> None:
    with writing(engine) as s:
        lifecycle.offer(s, Offer((A.id,), A.kind, "w0", 0), "r0", ["a0"], 1.0)
        lifecycle.hello(s, s.get_one(t.Worker, "w0"), greeting("b1" * 16), LEASE, 2.0)
    with reading(engine) as s:
        assert s.get_one(t.Attempt, "a0").reason == "unclaimed"


def upload(engine: Engine, name: str) -> str:
    with writing(engine) as s:
        lifecycle.know(s, sha(name), 1, 0.0)
    return sha(name)


def checkpoint(engine: Engine, attempt: str, name: str, position: int, worker: str = "w0") -> None:
    request = protocol.CheckpointRequest(sha=upload(engine, name), position=position)
    with writing(engine) as s:
        lifecycle.checkpoint(s, attempt, worker, request, 2.0)


def job_of(engine: Engine, job: JobDraft) -> t.Job:
    with reading(engine) as s:
        return s.get_one(t.Job, job.id)


def newest(engine: Engine) -> tuple[str | None, int]:
    job = job_of(engine, A)
    return job.checkpoint, job.position


def test_two_checkpoints_are_kept_and_one_revives_a_suspect(engine: Engine) -> None:
    attempt = start(engine, A)
    checkpoint(engine, attempt, "one", 10)
    expire(engine)
    checkpoint(engine, attempt, "two", 20)
    job = job_of(engine, A)
    assert (job.checkpoint, job.position, job.checkpoint_prev, job.position_prev) == (sha("two"), 20, sha("one"), 10)
    assert (job.state, attempt_of(engine, attempt).state) == ("active", "running")


def test_a_checkpoint_is_refused_from_the_replaced_and_when_it_is_not_new(engine: Engine) -> None:
    attempt = start(engine, A)
    checkpoint(engine, attempt, "one", 10)
    checkpoint(engine, attempt, "one", 10)
    with pytest.raises(ConflictError):
        checkpoint(engine, attempt, "again", 10)
    with pytest.raises(ConflictError, match="not uploaded"), writing(engine) as s:
        lifecycle.checkpoint(s, attempt, "w0", protocol.CheckpointRequest(sha=sha("nowhere"), position=30), 2.0)
    end(engine, attempt, "lost")
    start(engine, A, worker="w1", attempt="a1")
    with pytest.raises(ConflictError):
        checkpoint(engine, attempt, "late", 40)
    assert newest(engine) == (sha("one"), 10)


def test_a_crash_without_progress_falls_back_one_checkpoint_and_then_to_the_start(engine: Engine) -> None:
    first = start(engine, A)
    checkpoint(engine, first, "one", 10)
    checkpoint(engine, first, "two", 20)
    end(engine, first, "crashed")
    free(engine, "w0", "ra0")
    assert newest(engine) == (sha("two"), 20), "this attempt had made progress"
    end(engine, start(engine, A, attempt="a1"), "lost")
    free(engine, "w0", "ra1")
    assert newest(engine) == (sha("two"), 20), "a PC switched off says nothing of the checkpoint"
    end(engine, start(engine, A, attempt="a2"), "stalled")
    free(engine, "w0", "ra2")
    assert newest(engine) == (sha("one"), 10)
    end(engine, start(engine, A, worker="w0", attempt="a3"), "crashed")
    assert newest(engine) == (None, 0)


def test_a_checkpoint_ends_a_row_of_losses(engine: Engine) -> None:
    lose(engine, 4)
    attempt = start(engine, A, attempt="a4")
    checkpoint(engine, attempt, "one", 10)
    end(engine, attempt, "lost")
    free(engine, "w0", "ra4")
    lose(engine, 3, begin=5)
    assert state(engine, A) == "ready"


def test_memory_that_runs_out_charges_nobody_until_no_smaller_plan_is_left(engine: Engine) -> None:
    for i in range(4):
        assert (state(engine, A), job_of(engine, A).charges) == ("ready", 0)
        end(engine, start(engine, A, attempt=f"a{i}", now=float(i)), "oom")
        free(engine, "w0", f"ra{i}")
    assert [state(engine, job) for job in (A, B)] == ["failed", "skipped"]


def test_in_a_fused_run_a_crash_charges_nobody_and_each_job_runs_alone_from_then_on(engine: Engine) -> None:
    attempt = start(engine, A)
    beside = JobDraft("convert", {"x": 9})
    with writing(engine) as s:
        study = s.exec(select(t.Study)).one()
        lifecycle.list_jobs(s, study.id, [Wanted("bases", CELL, beside)], 0.0)
        s.get_one(t.Job, beside.id).state = "active"
        s.add(t.Attempt(id="a1", job=beside.id, run="ra0", worker="w0", state="running", offered_at=1.0))
    for crashed in (attempt, "a1"):
        end(engine, crashed, "crashed")
    for job in (A, beside):
        row = job_of(engine, job)
        assert (row.state, row.charges, row.solo) == ("ready", 0, True)


def report_disk(engine: Engine, free_bytes: int) -> None:
    with writing(engine) as s:
        s.get_one(t.Worker, "w0").disk_free = free_bytes


def test_a_full_disk_excludes_its_worker_until_it_reports_more_room(engine: Engine) -> None:
    report_disk(engine, 100)
    end(engine, start(engine, A), "disk")
    free(engine, "w0", "ra0")
    for room, excluded in ((100, True), (60, True), (101, False)):
        report_disk(engine, room)
        with reading(engine) as s:
            assert (queries.full_disks(s, 0.0) == {(A.id, "w0")}) is excluded, room
    assert job_of(engine, A).charges == 0


def test_a_paused_study_gets_no_slot_and_releases_those_it_has(engine: Engine) -> None:
    start(engine, A)
    with writing(engine) as s:
        lifecycle.pause_study(s, s.exec(select(t.Study)).one(), 2.0)
    with reading(engine) as s:
        assert queries.desired(s, "w0") == {"a0": "release"}
    end(engine, "a0", "released")
    with reading(engine) as s:
        assert queries.ready_jobs(s) == []
    with writing(engine) as s:
        lifecycle.resume_study(s, s.exec(select(t.Study)).one(), 3.0)
    with reading(engine) as s:
        assert [row.id for row in queries.ready_jobs(s)] == [A.id]


def test_a_retry_brings_back_what_failed_and_an_ended_study_with_it(engine: Engine) -> None:
    end(engine, start(engine, A), "error")
    with writing(engine) as s:
        study = s.exec(select(t.Study)).one()
        lifecycle.end_study(s, study.id, 3.0)
    with writing(engine) as s:
        assert lifecycle.retry_study(s, s.exec(select(t.Study)).one(), 4.0) == 1
    with reading(engine) as s:
        assert s.exec(select(t.Study)).one().state == "running"
    assert [state(engine, job) for job in (A, B, C)] == ["ready", "waiting", "waiting"]


def test_only_what_nobody_refers_to_and_nobody_touched_is_doomed(engine: Engine) -> None:
    attempt = start(engine, A)
    checkpoint(engine, attempt, "checkpoint", 10)
    accepted = start_b(engine)
    for name in ("old", "touched"):
        upload(engine, name)
    with writing(engine) as s:
        lifecycle.touch(s, [sha("touched")], 50.0)
        assert lifecycle.doom(s, before=40.0, now=60.0) == [sha("old")]
    assert accepted


def start_b(engine: Engine) -> str:
    """A second convert job, done: its result's file is referred to."""
    other = JobDraft("convert", {"x": 9})
    with writing(engine) as s:
        study = s.exec(select(t.Study)).one()
        lifecycle.list_jobs(s, study.id, [Wanted("bases", CELL, other)], 0.0)
    attempt = start(engine, other, worker="w1", attempt="b0")
    accept(engine, other, attempt, worker="w1")
    return attempt


def test_a_doomed_file_is_no_result_until_it_is_sent_again(engine: Engine) -> None:
    attempt = start(engine, A)
    outcome = result(engine, A)
    with writing(engine) as s:
        lifecycle.doom(s, before=1e9, now=2.0)
    with pytest.raises(ConflictError, match="not uploaded"), writing(engine) as s:
        lifecycle.accept(s, attempt, "w0", outcome, 3.0)
    upload(engine, "gguf")
    with writing(engine) as s:
        assert lifecycle.accept(s, attempt, "w0", outcome, 3.0)
