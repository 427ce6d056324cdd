"""An attempt's log over HTTP, on a real store: who may send it, and how a reader waits for it."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.routes import logs as log_routes
from jsm_queue.settings import Settings
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, writing
from jsm_queue.store.tokens import create_token, token_hash

JOB, FIRST, SECOND = "3f" * 32, "a1" * 16, "b2" * 16


class Api:
    """A served api with one job, its ended first attempt and its running second one, both of the worker "desk"."""

    def __init__(self, client: TestClient, home: Path) -> None:
        self.client, self.home = client, home
        self.engine = open_store(Settings(home=home).store_url)
        with writing(self.engine) as session:
            session.add_all(t.Worker(id=n, name=n, token_hash=token_hash(n), joined_at=0.0) for n in ("desk", "other"))
            session.add(t.Job(id=JOB, kind="train", params={}, state="active", created_at=0.0))
            session.flush()
            session.add_all(t.Run(id=n, worker="desk", slot=0, state="closed", offered_at=0.0) for n in ("r1", "r2"))
            session.flush()
            about: dict[str, Any] = {"job": JOB, "worker": "desk"}
            session.add(t.Attempt(id=FIRST, run="r1", state="ended", reason="lost", offered_at=1.0, **about))
            session.add(t.Attempt(id=SECOND, run="r2", state="running", offered_at=2.0, **about))

    def send(self, attempt: str, offset: int, text: str, token: str = "desk") -> tuple[int, int | None]:
        """The status, and the log's size then."""
        headers = {"Authorization": f"Bearer {token}"}
        reply = self.client.post(f"/v1/attempts/{attempt}/log", json={"offset": offset, "text": text}, headers=headers)
        return reply.status_code, reply.json().get("size")

    def end(self, state: str, reason: str | None, log_tail: str | None = None) -> None:
        with writing(self.engine) as session:
            attempt = session.get_one(t.Attempt, SECOND)
            attempt.state, attempt.reason, attempt.log_tail = state, reason, log_tail


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    settings = Settings(home=tmp_path, broker_url="redis://127.0.0.1:1/0", tick_s=60)
    token = create_token(open_store(settings.store_url), "admin")
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {token}"}) as client:
        yield Api(client, tmp_path)


def test_its_worker_sends_it_and_people_read_it(api: Api) -> None:
    assert api.send(SECOND, 0, "一\n") == (200, 4)
    assert api.send(SECOND, 0, "一\n二\n") == (200, 8)
    read = api.client.get(f"/v1/jobs/{JOB[:12]}/log").json()
    assert (read["attempt"], read["worker"], read["text"], read["next"]) == (SECOND, "desk", "一\n二\n", 8)
    assert read["live"] and not read["over"]
    assert api.client.get(f"/v1/jobs/{JOB}/log", params={"offset": 4}).json()["text"] == "二\n"


def test_nobody_else_sends_it(api: Api) -> None:
    assert api.send(SECOND, 0, "x", token="other")[0] == 409
    assert api.send(FIRST, 0, "x")[0] == 409, "it was replaced"
    assert api.send("c3" * 16, 0, "x")[0] == 409
    assert api.send(SECOND, 0, "x", token="nobody")[0] == 401
    assert api.send(SECOND, 5, "x")[0] == 409, "it would leave a gap"
    assert api.send("..%2Fx", 0, "x")[0] in (404, 422)
    assert not (api.home / "logs" / "attempts").exists()


@pytest.mark.parametrize(("state", "reason", "status"), [("accepted", None, 200), ("ended", "crashed", 200)])
def test_the_last_lines_may_come_after_the_end(api: Api, state: str, reason: str | None, status: int) -> None:
    api.end(state, reason)
    assert api.send(SECOND, 0, "last\n")[0] == status


def test_a_reader_waits_for_what_comes(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_routes, "LOOK_S", 0.01)
    sender = threading.Timer(0.2, lambda: api.send(SECOND, 0, "news\n"))
    sender.start()
    assert api.client.get(f"/v1/jobs/{JOB}/log", params={"wait": 25}).json()["text"] == "news\n"
    sender.join()
    ender = threading.Timer(0.2, lambda: api.end("ended", "oom"))
    ender.start()
    read = api.client.get(f"/v1/jobs/{JOB}/log", params={"wait": 25, "offset": 5}).json()
    assert (read["text"], read["live"], read["reason"]) == ("", False, "oom")
    ender.join()


def test_a_reader_may_not_wait_for_ever(api: Api) -> None:
    started = time.monotonic()
    assert api.client.get(f"/v1/jobs/{JOB}/log", params={"wait": 0.1}).json()["text"] == ""
    assert api.client.get(f"/v1/jobs/{JOB}/log", params={"wait": 26}).status_code == 422
    assert time.monotonic() - started < 25


def test_without_a_log_the_end_of_a_bad_end_is_shown(api: Api) -> None:
    api.end("ended", "crashed", "Traceback\nKeyError: 堤")
    read = api.client.get(f"/v1/jobs/{JOB}/log").json()
    assert read["text"] == "Traceback\nKeyError: 堤"
    assert api.client.get(f"/v1/jobs/{JOB}/log", params={"offset": read["next"]}).json()["text"] == ""


def test_an_attempt_is_named_by_the_beginning_of_its_id(api: Api) -> None:
    assert api.client.get(f"/v1/jobs/{JOB}/log", params={"attempt": FIRST[:6]}).json()["attempt"] == FIRST
    refused = api.client.get(f"/v1/jobs/{JOB}/log", params={"attempt": "ff"})
    assert refused.status_code == 404 and SECOND[:12] in refused.json()["error"]["fix"]
    assert api.client.get(f"/v1/jobs/{JOB}/log", headers={"Authorization": "Bearer desk"}).status_code == 401


def test_a_request_that_fails_is_logged_with_what_it_is_about(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[dict[str, str]] = []

    def broken(*_: object) -> int:
        from jsm_queue import logs

        seen.append(logs.context())
        raise RuntimeError("a bug")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(log_routes.attemptlogs, "append", broken)
        api.send(SECOND, 0, "x")
    assert seen == [{"attempt": SECOND}]
