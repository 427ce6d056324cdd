"""Checkpoints between a runner, this machine's disk and a pretended api."""

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jsm_queue.protocol import CheckpointFile, CheckpointRequest, EndReason, EndRequest, Grant
from tests.unit.workers.fakes import PARAMS
from tests.waiting import wait_for
from workers import checkpoints as module
from workers.cache import Cache
from workers.checkpointfolder import list_checkpoints
from workers.checkpoints import Checkpoints, drop_oldest
from workers.client import Client

ATTEMPT, JOB = "a1a1a1a1", "c3c3c3c3"
RELEASED = EndRequest(reason="released", message="a game runs")
GRANTED = b"state at 20"
SHA = hashlib.sha256(GRANTED).hexdigest()


class Api:
    """Takes files and checkpoints. `away`: it answers nothing; `refuse`: 409 to checkpoints; `go`: uploads wait."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.positions: list[int] = []
        self.away = self.refuse = False
        self.asked = 0
        self.go = threading.Event()
        self.go.set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.away:
            return httpx.Response(503, json={"error": {"code": "away", "message": "away", "fix": ""}})
        name = request.url.path.rpartition("/")[2]
        if request.method == "PATCH":
            self.files[name] = request.read()
            return httpx.Response(200, json={"have": True, "offset": 0})
        if request.method == "GET":
            found = httpx.Response(200, stream=httpx.ByteStream(GRANTED))
            return found if name == SHA else httpx.Response(404, json=_error("gone"))
        if name == "checkpoint":
            if self.refuse:
                return httpx.Response(409, json=_error("conflict"))
            asked = CheckpointRequest.model_validate_json(request.read())
            assert hashlib.sha256(self.files[asked.sha]).hexdigest() == asked.sha
            self.positions.append(asked.position)
            return httpx.Response(204)
        assert self.go.wait(20)
        return httpx.Response(200, json={"have": False, "offset": 0})


def _error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "no", "fix": ""}}


class Parts:
    """The checkpoints of a worker whose agent can die and start again."""

    def __init__(self, home: Path) -> None:
        self.home, self.api, self.ends = home, Api(), list[tuple[str, EndReason]]()
        self.begin_anew()

    def begin_anew(self) -> None:
        client = Client("http://api", "secret")
        client._http = httpx.Client(base_url="http://api", transport=httpx.MockTransport(self.api))
        cache = Cache(self.home / "cache", client)
        self.all = Checkpoints(self.home, client, cache, lambda a, end: self.ends.append((a, end.reason)), print)

    def begin(self, **changes: Any) -> tuple[int, str]:
        """Position and content of what the attempt goes on from; (0, "") for the start."""
        grant = Grant(attempt=ATTEMPT, job=JOB, kind="judge", params=PARAMS, inputs=[]).model_copy(update=changes)
        folder = self.home / "work"
        folder.mkdir(exist_ok=True)
        found = self.all.begin(grant, folder, threading.Event())
        return (found.position, found.path.read_text(encoding="utf-8")) if found else (0, "")

    def make(self, position: int, charges: int = 0) -> Path:
        """The attempt's runner writes a checkpoint."""
        folder = self.all.folder(JOB)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{position}.{charges}.checkpoint"
        path.write_text(f"state at {position}", encoding="utf-8")
        self.all.made(ATTEMPT, position, path, charges)
        return path

    def kept(self) -> list[int]:
        return [each.position for each in list_checkpoints(self.all.folder(JOB))]


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(tmp_path)
    yield parts
    parts.api.go.set()
    parts.all.leave()


def granted(position: int = 20) -> CheckpointFile:
    return CheckpointFile(sha=SHA, size=len(GRANTED), position=position)


def test_a_job_that_comes_back_goes_on_from_the_newest_also_after_the_agents_death(parts: Parts) -> None:
    assert parts.begin() == (0, "")
    parts.make(10)
    parts.make(15)
    parts.begin_anew()
    assert parts.begin() == (15, "state at 15")


def test_the_newer_of_ours_and_the_granted_one_counts(parts: Parts) -> None:
    parts.make(15)
    assert parts.begin(checkpoint=granted()) == (20, "state at 20")
    parts.make(25)
    assert parts.begin(checkpoint=granted()) == (25, "state at 25")


def test_what_was_made_before_a_charge_does_not_count(parts: Parts) -> None:
    parts.make(25)
    assert parts.begin(charges=1, checkpoint=granted()) == (20, "state at 20")
    assert parts.kept() == []
    parts.make(30, charges=1)
    assert parts.begin(charges=1, checkpoint=granted()) == (30, "state at 30")


def test_a_granted_one_that_is_gone_is_no_reason_to_fail(parts: Parts) -> None:
    assert parts.begin(checkpoint=CheckpointFile(sha="ab" * 32, size=3, position=20)) == (0, "")


@pytest.mark.parametrize("reason", ["crashed", "stalled", "oom"])
def test_who_falls_without_progress_falls_back_to_the_older_one(parts: Parts, reason: str) -> None:
    parts.make(10)
    parts.make(15)
    parts.begin()
    parts.all.finish(ATTEMPT, reason)
    assert parts.kept() == [10]
    parts.begin()
    parts.make(20)
    parts.all.finish(ATTEMPT, reason)
    assert parts.kept() == [10, 20], "it made progress"


@pytest.mark.parametrize("reason", [None, "cancelled", "error"])
def test_what_nobody_goes_on_from_is_dropped(parts: Parts, reason: str | None) -> None:
    parts.begin()
    parts.make(10)
    parts.all.finish(ATTEMPT, reason)
    assert not parts.all.folder(JOB).exists()


def test_a_running_attempt_sends_its_newest_when_it_is_due(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_S", 0.05)
    parts.api.go.clear()
    parts.all.start()
    parts.begin()
    first = parts.make(10)
    wait_for(lambda: parts.api.asked, "the upload")
    parts.make(15)
    first.unlink()  # as the runner does with what is too old
    parts.make(20)
    parts.api.go.set()
    wait_for(lambda: parts.api.positions == [10, 20], "the newest")
    assert parts.ends == []


def test_a_long_upload_makes_the_next_one_wait_longer(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_S", 0.01)
    monkeypatch.setattr(module, "SEND_FACTOR", 10**6)
    parts.all.start()
    parts.begin()
    parts.make(10)
    wait_for(lambda: parts.api.positions == [10], "the first")
    parts.make(15)
    wait_for(lambda: parts.all._attempts[ATTEMPT].due > 10**3, "the wait")
    assert parts.api.positions == [10]


def test_who_gives_way_sends_the_newest_before_its_end(parts: Parts) -> None:
    parts.all.start()
    parts.begin(checkpoint=granted())
    parts.make(25)
    parts.make(30)
    assert parts.api.positions == [] and parts.ends == []
    parts.api.go.clear()
    parts.all.release(ATTEMPT, RELEASED)
    wait_for(lambda: parts.api.asked > 1, "the upload")
    assert parts.ends == []
    parts.api.go.set()
    wait_for(lambda: parts.ends == [(ATTEMPT, "released")], "the end")
    assert parts.api.positions == [30] and parts.kept() == [25, 30]


def test_who_gives_way_during_an_upload_sends_what_is_newer(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_S", 0.0)
    parts.api.go.clear()
    parts.all.start()
    parts.begin()
    parts.make(10)
    wait_for(lambda: parts.api.asked, "the upload")
    parts.make(15)
    parts.all.release(ATTEMPT, RELEASED)
    parts.api.go.set()
    wait_for(lambda: parts.ends == [(ATTEMPT, "released")], "the end")
    assert parts.api.positions == [10, 15]


def test_what_the_api_has_already_is_not_sent_again(parts: Parts) -> None:
    parts.all.start()
    parts.begin(checkpoint=granted())
    parts.all.release(ATTEMPT, RELEASED)
    wait_for(lambda: parts.ends == [(ATTEMPT, "released")], "the end")
    assert parts.api.positions == []


def test_a_refused_one_is_dropped_and_the_attempt_goes_on(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_S", 0.05)
    parts.api.refuse = True
    parts.all.start()
    parts.begin()
    parts.make(10)
    wait_for(lambda: parts.all._attempts[ATTEMPT].sent == 10, "the refusal")
    assert parts.kept() == [10] and parts.ends == []
    parts.api.refuse = False
    parts.make(15)
    wait_for(lambda: parts.api.positions == [15], "the next")


def test_an_api_that_is_away_is_waited_for(parts: Parts) -> None:
    parts.api.away = True
    parts.all.start()
    parts.begin()
    parts.make(10)
    parts.all.release(ATTEMPT, RELEASED)
    wait_for(lambda: parts.api.asked > 1, "a second try")
    assert parts.ends == []
    parts.api.away = False
    wait_for(lambda: parts.ends == [(ATTEMPT, "released")], "the end")
    assert parts.api.positions == [10]


def test_who_leaves_does_not_wait_for_ever(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVE_S", 0.2)
    parts.api.go.clear()
    parts.all.start()
    parts.begin()
    parts.make(10)
    parts.all.release(ATTEMPT, RELEASED)
    parts.all.leave()
    assert parts.ends == [(ATTEMPT, "released")]
    assert parts.kept() == [10], "this machine may go on from it"


def test_who_leaves_while_the_api_is_away_tries_once(parts: Parts) -> None:
    parts.api.away = True
    parts.all.start()
    parts.begin()
    parts.make(10)
    parts.all.release(ATTEMPT, RELEASED)
    parts.all.leave()
    assert parts.ends == [(ATTEMPT, "released")]


def test_the_oldest_jobs_go_but_none_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, job in enumerate("abcde"):
        (tmp_path / job).mkdir()
        (tmp_path / job / "1.0.checkpoint").write_bytes(bytes(100))
        os.utime(tmp_path / job, (1000 - age, 1000 - age))
    monkeypatch.setattr(module, "MAX_JOBS", 4)
    drop_oldest(tmp_path, {"e"})
    assert sorted(folder.name for folder in tmp_path.iterdir()) == list("abcde"), "the fifth one runs"
    monkeypatch.setattr(module, "MAX_BYTES", 250)
    drop_oldest(tmp_path, {"e"})
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["a", "b", "e"]
