"""The api's clock jumps: no live worker is given up for it, and no dead one is believed for long."""

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from jsm_queue import coordinator, lifecycle, protocol
from jsm_queue.kinds import JobDraft
from jsm_queue.planner import Cell, Wanted
from jsm_queue.scheduler import Offer
from jsm_queue.settings import Settings
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from tests.unit.studies import inputs, spec

JOB = JobDraft("convert", {"x": 1})
HOUR = 3600.0
SETTINGS = Settings(lease_s=60.0, offer_s=20.0)
BOOT = "b0" * 16


@pytest.fixture
def engine(engine: Engine) -> Engine:
    """A job that runs since second 1000, on a worker that the api ticked for a lease with."""
    toy = spec()
    hardware = protocol.Hardware(hardware_class="A", os="x", cpu="x", cores=1, memory_bytes=1)
    slots = [protocol.SlotReport(idx=0, kind="cpu", device="cpu", vram_free=1, free=True)]
    with writing(engine) as s:
        study, _ = lifecycle.add_study(s, toy.model_dump(mode="json"), inputs(toy).model_dump(mode="json"), 0.0)
        lifecycle.list_jobs(s, study.id, [Wanted("bases", Cell("bases", "a"), JOB)], 0.0)
        s.add(t.Worker(id="w", name="w", token_hash="h", joined_at=0))
        s.flush()
        worker = s.get_one(t.Worker, "w")
        lifecycle.hello(s, worker, protocol.HelloRequest(boot_id=BOOT, hardware=hardware, slots=slots), 60.0, 1000.0)
        lifecycle.offer(s, Offer((JOB.id,), JOB.kind, "w", 0), "c0" * 16, ["a0" * 16], 1000.0)
    for second in range(1000, 1020):
        coordinator._reap(engine, SETTINGS, float(second))
    return engine


def claim(engine: Engine) -> None:
    with writing(engine) as s:
        request = protocol.ClaimRequest(boot_id=BOOT, delivery="d0" * 8)
        lifecycle.claim(s, "c0" * 16, s.get_one(t.Worker, "w"), request, 1010.0)


def state(engine: Engine) -> str:
    with reading(engine) as s:
        return s.exec(select(t.Attempt.state)).one()


def tick(engine: Engine, begin: float, seconds: int) -> None:
    for second in range(seconds):
        coordinator._reap(engine, SETTINGS, begin + second)


def test_a_jump_ahead_reaps_no_live_worker(engine: Engine) -> None:
    claim(engine)
    tick(engine, 1020.0 + HOUR, 50)
    assert state(engine) == "running"
    tick(engine, 1070.0 + HOUR, 20)
    assert state(engine) == "suspect", "but one that says nothing for a lease afterwards is"


def test_a_jump_back_believes_a_dead_worker_for_no_more_than_a_lease(engine: Engine) -> None:
    claim(engine)
    tick(engine, 1020.0 - HOUR, 59)
    assert state(engine) == "running"
    tick(engine, 1079.0 - HOUR, 30)
    assert state(engine) == "suspect"


def test_a_jump_back_ends_an_offer_that_nobody_claimed(engine: Engine) -> None:
    tick(engine, 1020.0 - HOUR, 2)
    assert state(engine) == "ended"
    with reading(engine) as s:
        assert s.get_one(t.Job, JOB.id).state == "ready"
