"""The control channel: what somebody asks of the api reaches a worker's long poll at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from api.app import create_app
from api.context import Context
from api.routes import worker as worker_routes
from jsm_queue import lifecycle
from jsm_queue.settings import Settings
from jsm_queue.store import tables as t
from jsm_queue.store.database import writing
from jsm_queue.store.tokens import create_token, token_hash
from tests.served import served
from tests.unit.studies import inputs, spec
from tests.waiting import wait_for

WORKER, BOOT = "a" * 32, "b" * 32


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    """An api whose long polls look again only when they are told to, with a worker and a study."""
    monkeypatch.setattr(worker_routes, "LOOK_S", 3600.0)
    app = create_app(Settings(home=tmp_path, broker_url="redis://127.0.0.1:1/0"))
    yield app
    app.state.context.engine.dispose()


def prepared(ctx: Context) -> str:
    """The study's id; the worker is in a session."""
    toy = spec()
    with writing(ctx.engine) as session:
        session.add(t.Worker(id=WORKER, name="w", token_hash=token_hash("worker"), joined_at=0.0, boot_id=BOOT))
        study, _ = lifecycle.add_study(session, toy.model_dump(mode="json"), inputs(toy).model_dump(mode="json"), 0.0)
        return study.id


@pytest.mark.parametrize(
    "request_", ["POST /v1/studies/STUDY/pause", "DELETE /v1/studies/STUDY", f"POST /v1/workers/{WORKER}/drain"]
)
def test_a_long_poll_ends_when_something_else_is_desired(app: FastAPI, request_: str) -> None:
    ctx: Context = app.state.context
    method, path = request_.replace("STUDY", prepared(ctx)).split()
    admin = {"Authorization": f"Bearer {create_token(ctx.engine, 'admin')}"}
    with served(app) as url, ThreadPoolExecutor(1) as beside, httpx.Client(base_url=url, trust_env=False) as client:

        def control(rev: int) -> httpx.Response:
            query = {"boot_id": BOOT, "rev": rev}
            headers = {"Authorization": "Bearer worker"}
            return client.get("/v1/worker/control", params=query, headers=headers, timeout=worker_routes.LONG_POLL_S)

        known = control(-1).raise_for_status().json()["control_rev"]
        poll = beside.submit(control, known)
        wait_for(lambda: ctx.news.awaited, "the long poll")
        client.request(method, path, headers=admin).raise_for_status()
        assert poll.result().raise_for_status().json()["control_rev"] > known
