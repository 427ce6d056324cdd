"""Bugs that the state machine and its model found, each in a few steps."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, select

from jsm_queue import lifecycle, protocol
from jsm_queue.errors import ConflictError
from jsm_queue.kinds import JobDraft
from jsm_queue.scheduler import Offer
from jsm_queue.store import queries
from jsm_queue.store import tables as t
from jsm_queue.store.database import insert_or_ignore, open_store, writing
from tests import stores
from tests.lifecycle import scene
from tests.lifecycle.scene import A, sha

LEASE_S = 60.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Two workers that said hello, and study s0."""
    engine = open_store(f"sqlite:///{(tmp_path / 'store.sqlite').as_posix()}")
    with writing(engine) as s:
        for worker in scene.SLOTS:
            scene.join(s, worker)
            hello(s, worker, now=0.0)
        scene.submit(s, "s0", 0.0)
    yield engine
    engine.dispose()


def hello(s: Session, worker: str, now: float, undelivered: tuple[str, ...] = ()) -> None:
    """A new session each time."""
    row = s.get_one(t.Worker, worker)
    boot = f"{int(row.boot_id or '0', 16) + 1:032x}"
    lifecycle.hello(s, row, scene.greeting(worker, boot, undelivered), LEASE_S, now)


def start(s: Session, attempt: str, worker: str = "w0", job: JobDraft = A, now: float = 1.0) -> str:
    """Offer and claim; its run is "f" and the attempt's id. Returns the attempt's id."""
    assert lifecycle.offer(s, Offer((job.id,), job.kind, worker, 0), "f" + attempt, [attempt], now)
    row = s.get_one(t.Worker, worker)
    lifecycle.claim(s, "f" + attempt, row, protocol.ClaimRequest(boot_id=row.boot_id or "", delivery="d" * 8), now)
    return attempt


def crash(s: Session, attempt: str, worker: str = "w0", now: float = 1.0) -> None:
    """One that began and crashed; its slot is free."""
    start(s, attempt, worker, now=now)
    lifecycle.end(s, attempt, worker, protocol.EndRequest(reason="crashed"), now)
    s.get_one(t.Run, "f" + attempt).state = "closed"


def job_state(s: Session, job: JobDraft = A) -> str:
    return s.get_one(t.Job, job.id).state


def study(s: Session, name: str = "s0") -> t.Study:
    return s.get_one(t.Study, scene.study_id(name))


def test_a_retry_forgives_the_workers_too(engine: Engine) -> None:
    with writing(engine) as s:
        for i, worker in enumerate(("w0", "w0", "w1")):
            crash(s, f"a{i}", worker)
        assert job_state(s) == "quarantined"
        lifecycle.retry_study(s, study(s), 2.0)
        for i in range(3):
            crash(s, f"b{i}", "w0")
        assert job_state(s) == "ready", "three charges since the retry, all on w0, and w1 lives"


def test_a_live_worker_that_never_tried_it_gets_its_try(engine: Engine) -> None:
    with writing(engine) as s:
        for i in range(2):
            crash(s, f"a{i}", "w0")
        start(s, "a2", "w0")
        hello(s, "w1", now=100.0)  # w0 is not heard of since 0 s: its lease is over, its last words come late
        lifecycle.end(s, "a2", "w0", protocol.EndRequest(reason="crashed"), 101.0)
        assert job_state(s) == "ready", "w1 is the only live worker, and it never had the job"


def test_a_study_with_work_to_do_does_not_end(engine: Engine) -> None:
    with writing(engine) as s:
        start(s, "a0")
        lifecycle.end(s, "a0", "w0", protocol.EndRequest(reason="error"), 1.0)
        # The coordinator reads here that all jobs are terminal; before it writes that, somebody retries.
        assert lifecycle.retry_study(s, study(s), 2.0) == 1
        lifecycle.end_study(s, scene.study_id("s0"), 2.0)
        assert [row.id for row in queries.ready_jobs(s)] == [A.id], "nobody will ever do it: a retry finds nothing dead"


def test_a_job_that_is_tried_again_names_no_checkpoint_that_was_collected(engine: Engine) -> None:
    with writing(engine) as s:
        start(s, "a0")
        lifecycle.know(s, sha("checkpoint"), 1, 1.0)
        lifecycle.checkpoint(s, "a0", "w0", protocol.CheckpointRequest(sha=sha("checkpoint"), position=10), 1.0)
        lifecycle.end(s, "a0", "w0", protocol.EndRequest(reason="error"), 2.0)
        for doomed in lifecycle.doom(s, before=50.0, now=60.0):
            lifecycle.forget(s, doomed)
        lifecycle.retry_study(s, study(s), 61.0)
        job = s.get_one(t.Job, A.id)
        assert (job.checkpoint, job.position) == (None, 0)


def test_a_checkpoint_is_doomed_once_its_job_failed(engine: Engine) -> None:
    """What the test above rests on."""
    with writing(engine) as s:
        start(s, "a0")
        lifecycle.know(s, sha("checkpoint"), 1, 1.0)
        lifecycle.checkpoint(s, "a0", "w0", protocol.CheckpointRequest(sha=sha("checkpoint"), position=10), 1.0)
        assert lifecycle.doom(s, before=50.0, now=60.0) == []
        lifecycle.end(s, "a0", "w0", protocol.EndRequest(reason="error"), 2.0)
        assert lifecycle.doom(s, before=50.0, now=60.0) == [sha("checkpoint")]


def test_hello_writes_an_event_for_each_change(engine: Engine) -> None:
    with writing(engine) as s:
        start(s, "a0" * 4)
        hello(s, "w0", 2.0, ("a0" * 4,))
        assert s.get_one(t.Attempt, "a0" * 4).state == "delivering"
        assert s.exec(select(t.Event).where(t.Event.what == "attempt delivering")).all()


def test_a_file_that_is_sent_again_writes_an_event(engine: Engine) -> None:
    with writing(engine) as s:
        lifecycle.know(s, sha("file"), 1, 1.0)
        assert lifecycle.doom(s, before=50.0, now=60.0) == [sha("file")]
        last = queries.last_event(s)
        lifecycle.know(s, sha("file"), 1, 61.0)
        assert s.get_one(t.Artifact, sha("file")).state == "whole"
        assert queries.last_event(s) == last + 1


def test_revisions_grow_when_a_study_is_cancelled(engine: Engine) -> None:
    """What the two tests below rest on."""
    with writing(engine) as s:
        before = s.get_one(t.Worker, "w0").control_rev
        lifecycle.cancel_study(s, study(s), 2.0)
    with writing(engine) as s:
        assert s.get_one(t.Worker, "w0").control_rev == before + 1


def test_the_worker_of_a_replaced_attempt_hears_of_it(engine: Engine) -> None:
    with writing(engine) as s:
        start(s, "a0")
        lifecycle.reap(s, 20.0, 100.0, leases=True)
        hello(s, "w1", 100.0)
    before = revision(engine)
    with writing(engine) as s:
        start(s, "a1", "w1", now=101.0)
        assert queries.desired(s, "w0") == {"a0": "stop"}
    assert revision(engine) > before


def test_a_worker_hears_that_its_job_is_wanted_again(engine: Engine) -> None:
    with writing(engine) as s:
        start(s, "a0")
        lifecycle.cancel_study(s, study(s), 2.0)
        assert queries.desired(s, "w0") == {"a0": "stop"}
    before = revision(engine)
    with writing(engine) as s:
        scene.submit(s, "s1", 3.0)
        assert queries.desired(s, "w0") == {"a0": "run"}
    assert revision(engine) > before


def test_what_is_inserted_on_postgres_is_new(tmp_path: Path) -> None:
    with stores.store_url("postgres", tmp_path) as url:
        engine = open_store(url)
        try:
            with writing(engine) as s:
                assert [insert_or_ignore(s, t.Counter(name="x", value=1.0)) for _ in range(2)] == [True, False]
                scene.join(s, "w0")
                assert scene.submit(s, "s0", 0.0) == (True, 3)
        finally:
            engine.dispose()


def revision(engine: Engine) -> int:
    """w0's."""
    with writing(engine) as s:
        return s.get_one(t.Worker, "w0").control_rev


def test_a_result_that_was_never_claimed_takes_no_slot_for_ever(engine: Engine) -> None:
    with writing(engine) as s:
        assert lifecycle.offer(s, Offer((A.id,), A.kind, "w0", 0), "fa0", ["a0"], 1.0)
        files = scene.files("A", "a0")
        for file in files.values():
            lifecycle.know(s, file, 1, 1.0)
        with suppress(ConflictError):  # refusing it were right too
            lifecycle.accept(s, "a0", "w0", scene.result(files, {"q1": 1.0}), 2.0)
        lifecycle.reap(s, 20.0, 100.0, leases=True)
        assert s.get_one(t.Run, "fa0").state == "closed"
