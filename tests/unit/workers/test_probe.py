"""What the probe says of a worker's machine and of its pool."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jsm_queue import processes, yielding
from jsm_queue.kinds import KINDS
from workers import hardware, probe
from workers.hardware import Gpu

GPU = Gpu("NVIDIA GeForce RTX 4060 Ti", "GPU-a", 17 * 10**9, 15 * 10**9)


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def api() -> Iterator[str]:
    """An api that answers, with its clock."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def joined(home: Path, api: str) -> str:
    (home / "identity.json").write_text(json.dumps({"worker": "a1b2", "token": "t", "api": api}), encoding="utf-8")
    return str(home)


def test_the_pool_is_asked_for_its_clock(tmp_path: Path, api: str) -> None:
    found = probe.pool(joined(tmp_path, api))
    assert found["url"] == api and abs(found["skew"]) < 5 and "error" not in found


def test_a_pool_that_is_away_or_not_joined_is_said(tmp_path: Path) -> None:
    assert probe.pool(str(tmp_path)) == {"url": None}
    away = f"http://127.0.0.1:{processes.free_port()}"
    found = probe.pool(joined(tmp_path, away))
    assert found["url"] == away and found["error"]


def test_a_machine_says_what_it_is_and_how_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "list_gpus", lambda: [GPU])
    monkeypatch.setattr(hardware, "torch_cuda", lambda: "13.0")
    monkeypatch.setattr(hardware, "driver", lambda: "580.95.05")
    yielding.note(tmp_path, {"0": {"wish": "release", "why": "eldenring runs"}})
    found = probe.machine(str(tmp_path))
    assert found["pid"] is None and "wish" not in found["slots"][0], "what a dead worker noted is old"
    processes.write_pid_file(tmp_path / "agent.pid", os.getpid())
    found = probe.machine(str(tmp_path))
    gpu, cpu = found["slots"]
    assert gpu["name"] == GPU.name and gpu["free"] == GPU.free and gpu["why"] == "eldenring runs"
    assert cpu["device"] == "cpu" and found["hardware"]["driver"] == "580.95.05"
    assert set(found["kinds"]) == set(KINDS)
    assert found["readings"]["hours"] == "inside" and found["readings"]["cuda:0 temperature"] is None
    assert json.loads(json.dumps(found)) == found


def test_a_gpu_that_torch_cannot_use_is_no_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "list_gpus", lambda: [GPU])
    monkeypatch.setattr(hardware, "torch_cuda", lambda: None)
    assert {slot["device"] for slot in probe.machine(str(tmp_path))["slots"]} == {"cpu"}
