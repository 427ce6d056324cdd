"""`jsm why` and what `jsm plan` asks, over HTTP on a real store."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from api.app import create_app
from jsm_queue import lifecycle, protocol
from jsm_queue.cli import client, plan
from jsm_queue.cli.main import app
from jsm_queue.settings import Settings
from jsm_queue.store import tables as t
from jsm_queue.store.costs import add_sample
from jsm_queue.store.database import open_store, writing
from jsm_queue.store.tokens import create_token

JOB = "3f" * 32


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """An api with a ready job of a paused study, a worker with a GPU, and a sample; the CLI finds it."""
    settings = Settings(home=tmp_path, broker_url="redis://127.0.0.1:1/0", tick_s=60)
    engine = open_store(settings.store_url)
    hardware = protocol.Hardware(hardware_class="A", os="x", cpu="x", cores=2, memory_bytes=1, gpus=["RTX 4090"])
    slot = protocol.SlotReport(idx=0, kind="gpu", device="cuda:0", vram_free=2**34, free=True)
    with writing(engine) as session:
        session.add(t.Job(id=JOB, kind="train", params={}, state="ready", created_at=0.0))
        session.add(t.Study(id="5" * 64, name="toy", spec={}, inputs={}, state="paused", created_at=0.0))
        session.add(t.Worker(id="w", name="desk", token_hash="x", joined_at=0.0))
        session.flush()
        session.add(t.StudyJob(study="5" * 64, job=JOB, stage="bases", cell="a n=10 seed=1"))
        hello = protocol.HelloRequest(boot_id="b0" * 16, hardware=hardware, slots=[slot])
        lifecycle.hello(session, session.get_one(t.Worker, "w"), hello, lease_s=1e12, now=1.0)
        row = t.CostSample(attempt="a", kind="train", base="a", gpu="RTX 4090", work=100.0, seconds=50.0, at=1.0)
        add_sample(session, row)
    token = create_token(engine, "admin")
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {token}"}) as served:
        monkeypatch.setattr(client, "connect", lambda: served)
        yield served


def test_why_is_one_sentence(api: TestClient) -> None:
    told = CliRunner().invoke(app, ["why", JOB[:8]])
    assert (told.exit_code, told.output.strip()) == (0, "train a n=10 seed=1  its study toy is paused")
    answer = json.loads(CliRunner().invoke(app, ["why", JOB[:8], "--json"]).stdout)
    assert answer == {"id": JOB, "label": "train a n=10 seed=1", "state": "ready", "why": "its study toy is paused"}


def test_an_unknown_job_is_told_so(api: TestClient) -> None:
    assert api.get("/v1/jobs/ffffffff/why").status_code == 404


def test_a_plan_knows_the_pool_s_cards_and_what_they_took(api: TestClient) -> None:
    pool = plan.ask_pool()
    assert pool.gpus == ("RTX 4090",)
    assert pool.learned.factors["train", "RTX 4090"] < 1
