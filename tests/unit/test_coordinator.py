"""One round of the coordinator on a real SQLite store."""

from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from jsm_queue import coordinator, lifecycle, protocol
from jsm_queue.protocol import Bell
from jsm_queue.settings import Settings
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
