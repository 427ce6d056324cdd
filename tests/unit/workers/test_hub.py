"""Bases of the hub, through a small server that answers as the hub does."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jsm_queue.errors import ModelError
from jsm_queue.kinds import BaseRef
from workers.cache import Cache
from workers.client import Client, Stopped, Unreachable

COMMIT = "c" * 40
FILES = {
    "config.json": b'{"model_type": "qwen2"}',
    "model.safetensors": b"weights" * 1000,
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "pytorch_model.bin": b"pickled",
    "modeling_evil.py": b"import os",
    "original/model.safetensors": b"another form",
    "README.md": b"# A model",
}
BASE = BaseRef(form="hub", repo="owner/name", revision=COMMIT)


def git_hash(content: bytes) -> str:
    """As the hub lists a file."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    """One repository at one commit. `asked`: the files that were fetched."""

    asked: list[str]
    broken: bool
    hang: threading.Event | None

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        if self.hang:
            self.hang.wait(60)
        path = self.path.split("?")[0]
        if self.broken:
            return self.send({"error": "try later"}, 400)  # it tries a 500 again itself, for 24 s
        if path.startswith("/api/models/owner/name/tree"):
            self.send([{"type": "file", "path": n, "size": len(b), "oid": git_hash(b)} for n, b in FILES.items()])
        elif path.startswith("/api/models/owner/name"):
            self.send({"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]})
        elif path.startswith(f"/owner/name/resolve/{COMMIT}/"):
            self.send_file(path.removeprefix(f"/owner/name/resolve/{COMMIT}/"))
        else:
            self.send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def send_file(self, name: str) -> None:
        if self.command == "GET":
            self.asked.append(name)
        etag = hashlib.sha1(FILES[name]).hexdigest()
        self.send(FILES[name], 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def send(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    handler = type("TestHub", (Hub,), {"asked": [], "broken": False, "hang": None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", Client("http://127.0.0.1:1", "token"))


def build(cache: Cache, folder: Path, base: BaseRef = BASE) -> dict[str, bytes]:
    cache.build_hub_base(base, folder, cache.root.parent / "hub.log", threading.Event())
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_only_safe_files_are_fetched_and_only_once(hub: type[Hub], cache: Cache, tmp_path: Path) -> None:
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert build(cache, tmp_path / "1") == {name: FILES[name] for name in wanted}
    assert set(hub.asked) == wanted
    hub.asked.clear()
    assert set(build(cache, tmp_path / "2")) == wanted
    assert hub.asked == []


def test_an_unknown_repository_is_a_model_error(hub: type[Hub], cache: Cache, tmp_path: Path) -> None:
    nobody = BaseRef(form="hub", repo="no/body", revision=COMMIT)
    with pytest.raises(ModelError, match=f"no/body at {COMMIT} cannot be had"):
        build(cache, tmp_path / "1", nobody)


def test_a_hub_that_is_broken_is_tried_again(hub: type[Hub], cache: Cache, tmp_path: Path) -> None:
    hub.broken = True
    with pytest.raises(Unreachable, match="owner/name broke off"):
        build(cache, tmp_path / "1")
    hub.broken = False
    assert build(cache, tmp_path / "1")["config.json"] == FILES["config.json"]


def test_a_download_that_nobody_wants_any_more_is_killed(hub: type[Hub], cache: Cache, tmp_path: Path) -> None:
    hub.hang, stop = threading.Event(), threading.Event()
    threading.Timer(1.0, stop.set).start()
    with pytest.raises(Stopped):
        cache.build_hub_base(BASE, tmp_path / "1", tmp_path / "hub.log", stop)
    hub.hang.set()
