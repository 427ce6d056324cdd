"""`jsm worker list|pause|resume|drain|remove` and `jsm token …`, against the real api."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jsm_queue.cli import client as connecting
from jsm_queue.cli import main, workers
from jsm_queue.errors import NotFoundError
from jsm_queue.store import tables as t
from jsm_queue.store.database import writing
from tests.security.scene import Machine, Scene


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    scene.http.headers["Authorization"] = f"Bearer {scene.token}"

    @contextmanager
    def connect() -> Iterator[Any]:
        yield scene.http

    monkeypatch.setattr(connecting, "connect", connect)
    yield scene
    scene.ctx.engine.dispose()


def run(*arguments: str) -> Any:
    """What a command printed, as JSON."""
    done = CliRunner().invoke(main.app, [*arguments, "--json"], catch_exceptions=False)
    return json.loads(done.stdout)


def shown(*arguments: str) -> str:
    return CliRunner().invoke(main.app, list(arguments), catch_exceptions=False).output


def fill_disk(scene: Scene, worker: Machine) -> None:
    """A job filled the worker's disk and is ready again; another one is at work."""
    with writing(scene.ctx.engine) as session:
        here = {"worker": worker.id, "slot": 0}
        session.add(t.Run(id="r1", state="closed", offered_at=1.0, **here))
        session.add(t.Run(id="r2", state="claimed", offered_at=2.0, **here))
        session.add(t.Job(id="j1", kind="convert", state="ready", params={}, created_at=0.0))
        session.flush()
        ended = {"state": "ended", "reason": "disk", "disk_free": 120_000_000_000, "ended_at": 1.5}
        session.add(t.Attempt(id="a1", job="j1", run="r1", worker=worker.id, offered_at=1.0, **ended))


def add_slot(scene: Scene, worker: Machine, **slot: Any) -> None:
    with writing(scene.ctx.engine) as session:
        session.get_one(t.Worker, worker.id).lease_until = time.time() + 60
        session.get_one(t.Worker, worker.id).disk_free = 120_000_000_000
        row = {"idx": 0, "kind": "gpu", "device": "cuda:0", "vram_free": 14_200_000_000, "free": True}
        session.add(t.Slot(worker=worker.id, **row | slot))


def test_a_worker_is_paused_and_goes_on_and_is_removed(scene: Scene) -> None:
    worker = scene.join("PC of Aki")
    for what, state in (("pause", "paused"), ("resume", "active"), ("drain", "draining"), ("remove", "removed")):
        assert run("worker", what, "PC of Aki" if what == "pause" else worker.id[:8])["state"] == state
    assert run("worker", "list")["workers"] == []
    with pytest.raises(NotFoundError, match="No worker"):
        run("worker", "pause", worker.id[:8])


def test_two_workers_of_one_name_are_told_apart_by_id(scene: Scene) -> None:
    first, _ = scene.join("PC"), scene.join("PC")
    with pytest.raises(NotFoundError, match="More than one worker 'PC'"):
        run("worker", "pause", "PC")
    assert run("worker", "pause", first.id)["id"] == first.id


def test_the_list_says_what_a_worker_has_and_why_it_does_not_work(scene: Scene) -> None:
    worker = scene.join("PC")
    add_slot(scene, worker, vram_total=16_000_000_000, hold="a game runs", free=False)
    text = shown("worker", "list")
    for word in ("PC", "live", "14.2 GB of 16.0 GB", "120.0 GB", "cuda:0: a game runs"):
        assert word in text
    assert run("worker", "list")["workers"][0]["slots"][0]["busy"] is False
    fill_disk(scene, worker)
    assert "no room on its disk for 1 job" in shown("worker", "list")
    assert run("worker", "list")["workers"][0]["slots"][0]["busy"] is True, "what stands still is there"
    with writing(scene.ctx.engine) as session:
        session.get_one(t.Worker, worker.id).lease_until = time.time() - 1
    text = shown("worker", "list")
    assert "away" in text and "1 GPU slot" in text
    for old in ("14.2 GB", "120.0 GB", "a game runs"):
        assert old not in text


def test_the_status_says_which_owners_keep_their_machines(scene: Scene) -> None:
    add_slot(scene, scene.join("PC"), hold="on battery", free=False)
    add_slot(scene, scene.join("other"))
    assert "PC is kept by its owner: cuda:0: on battery" in shown("status")
    assert "other is kept" not in shown("status")
    assert "kept" not in json.dumps(run("status"))


def test_a_store_that_cannot_be_written_is_told_with_every_answer(scene: Scene) -> None:
    scene.ctx.store_away.set()
    connecting._warn_of_the_store.cache_clear()
    done = CliRunner().invoke(main.app, ["worker", "list", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout) == {"workers": []}
    assert "cannot write its store now" in done.stderr and "make room" in done.stderr
    scene.ctx.store_away.clear()
    connecting._warn_of_the_store.cache_clear()
    assert not CliRunner().invoke(main.app, ["worker", "list"], catch_exceptions=False).stderr


def test_a_worker_that_is_away_is_kept_by_nobody() -> None:
    slot = {"device": "cpu", "hold": "on battery"}
    found = [{"name": "a", "live": True, "slots": [slot, slot]}, {"name": "b", "live": False, "slots": [slot]}]
    assert workers.kept(found) == ["a is kept by its owner: cpu: on battery"]


@pytest.mark.parametrize(
    ("worker", "said"),
    [
        ({"live": True, "state": "active"}, "live"),
        ({"live": True, "state": "draining"}, "draining"),
        ({"live": False, "state": "active", "away_since": 900.0}, "away 1 min 40 s"),
        ({"live": False, "state": "paused", "away_since": None}, "paused, away"),
    ],
)
def test_a_worker_s_state_in_words(worker: dict[str, Any], said: str) -> None:
    assert workers.state(worker, 1000.0) == said


def test_a_token_is_made_listed_and_revoked(scene: Scene) -> None:
    made = run("token", "create", "--scope", "submit", "--name", "alice", "--days", "30")
    assert scene.ask(made["token"], "GET", "/studies").status_code == 200
    (listed,) = [token for token in run("token", "list")["tokens"] if token["name"] == "alice"]
    assert listed["valid"] and listed["id"] == made["id"] and made["token"] not in json.dumps(listed)
    assert "valid until" in shown("token", "list")
    assert run("token", "revoke", made["id"][:6])["name"] == "alice"
    assert scene.ask(made["token"], "GET", "/studies").status_code == 401
    assert "revoked" in shown("token", "list")


def test_a_worker_that_joined_needs_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[list[str]] = []
    monkeypatch.setattr(workers, "become", lambda argv, _env: begun.append(argv) or 0)
    monkeypatch.delenv("JSM_API_URL", raising=False)
    assert workers.start(None, None, tmp_path, None) == 0
    assert begun[0][-2:] == ["--home", str(tmp_path)], "the agent knows where it joined"
    assert workers.start("https://pool:8080", None, tmp_path, None) == 0
    assert begun[1][-2:] == ["--api", "https://pool:8080"]
