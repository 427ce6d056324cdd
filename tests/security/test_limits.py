"""What one request or one file may take of the api: memory, disk, records; and what old leftovers take."""

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import httpx
import psutil
import pytest

from api import requests
from api.routes import artifacts as artifact_routes
from jsm_queue import artifacts
from jsm_queue.protocol import ArtifactIn
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from tests.ports import quiet_port
from tests.security.scene import Machine, Scene, sha
from tests.waiting import wait_for
from workers.cache import Cache
from workers.client import Client

LARGE = 384 * 2**20
"""Bytes of a file with a hole, far more than the memory that either side may take for it."""
MOST = 96 * 2**20

API = """
import sys
from pathlib import Path
import uvicorn
from api.app import create_app
from jsm_queue.settings import Settings
app = create_app(Settings(home=Path(sys.argv[1]), broker_url="redis://127.0.0.1:1/0"))
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_config=None)
"""


def peak(process: psutil.Process) -> int:
    """Bytes of memory that a process had at most so far; where the system does not tell, has now."""
    try:
        text = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM"))
    except OSError:
        return process.memory_info().rss


def test_a_large_file_passes_in_pieces_both_ways(scene: Scene, tmp_path: Path) -> None:
    """Also one of 6 GB would: what is in memory does not depend on its size."""
    worker = scene.join("w")
    job = scene.add_job()
    worker.hold(job)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(LARGE)
    artifact = ArtifactIn(role="gguf", sha=artifacts.file_hash(large), size=LARGE)
    port = quiet_port()
    api = subprocess.Popen([sys.executable, "-c", textwrap.dedent(API), str(scene.home), str(port)])
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(url), "the api")
        both = (psutil.Process(api.pid), psutil.Process())
        before = [peak(process) for process in both]
        client = Client(url, worker.token)
        client.upload(large, artifact, threading.Event())
        cache = Cache(tmp_path / "cache", client)
        got = cache.fetch(artifact.sha, LARGE, threading.Event())
        assert got.stat().st_size == LARGE
        grown = [peak(process) - had for process, had in zip(both, before, strict=True)]
    finally:
        api.kill()
        api.wait()
    assert max(grown) < MOST, f"api and worker grew by {grown} bytes"


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_no_body_is_larger_than_its_limit(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_BODY", 1000)
    reply = scene.admin("POST", "/tokens", json={"scope": "read", "name": "x" * 2000})
    assert reply.status_code == 413 and reply.json()["error"]["code"] == "too_large"


def test_a_file_is_no_longer_than_it_was_said(scene: Scene, mallory: Machine) -> None:
    mallory.hold(scene.add_job())
    headers = {"Upload-Offset": "0", "Upload-Length": "10"}
    reply = mallory.ask("PATCH", f"/artifacts/{'e' * 64}", content=b"x" * 5000, headers=headers)
    assert reply.status_code == 409
    assert not list((scene.home / "artifacts" / "partial").iterdir())


def test_leftovers_are_collected(scene: Scene, mallory: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads that broke off, checkpoints of jobs that are over, logs of long ago, places of files that are gone."""
    job, other = scene.add_job("train"), scene.add_job("train")
    attempt, recent = mallory.hold(job), mallory.hold(other)
    mallory.send(b"a checkpoint")
    with writing(scene.ctx.engine) as session:
        row = session.get_one(t.Job, job)
        row.state, row.checkpoint = "failed", sha(b"a checkpoint")
        session.get_one(t.Attempt, attempt).state, session.get_one(t.Attempt, attempt).ended_at = "ended", 5.0
        session.add(t.ArtifactAt(sha="e" * 64, worker=mallory.id))
    headers = {"Upload-Offset": "0", "Upload-Length": "10"}
    mallory.ask("PATCH", f"/artifacts/{'d' * 64}", content=b"half", headers=headers)
    (broken,) = (scene.home / "artifacts" / "partial").iterdir()
    os.utime(broken, (1, 1))
    for name in (attempt, recent):
        mallory.ask("POST", f"/attempts/{name}/log", json={"offset": 0, "text": "a line\n"})
    monkeypatch.setattr(artifact_routes, "UNTOUCHED_S", -1.0)
    for dry_run in (True, False):
        told = scene.admin("POST", "/artifacts/collect", params={"dry_run": dry_run}).json()
        assert (told["artifacts"], told["uploads"], told["logs"]) == ([sha(b"a checkpoint")], 1, 1)
        assert told["removed"] == (not dry_run) and broken.exists() == dry_run
    assert [log.stem for log in (scene.home / "logs" / "attempts").iterdir()] == [recent]
    with reading(scene.ctx.engine) as session:
        assert session.get(t.ArtifactAt, ("e" * 64, mallory.id)) is None
        assert session.get(t.ArtifactFrom, (sha(b"a checkpoint"), mallory.id)) is None
    again = scene.admin("POST", "/artifacts/collect").json()
    assert (again["found"], again["uploads"], again["logs"], again["places"]) == (0, 0, 0, 0)


def test_a_worker_whose_file_is_not_wanted_hears_it_with_its_result(scene: Scene, tmp_path: Path) -> None:
    """It asks no more for the file, and does not stop working: another attempt was faster."""
    worker = scene.join("w")
    (tmp_path / "file").write_bytes(b"late")
    client = Client("http://api", worker.token)
    client._http = scene.http  # type: ignore[assignment]
    scene.http.headers["Authorization"] = f"Bearer {worker.token}"
    client.upload(tmp_path / "file", ArtifactIn(role="gguf", sha=sha(b"late"), size=4), threading.Event())
    assert worker.get(sha(b"late")).status_code == 404
