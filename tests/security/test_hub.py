"""The hub through the api: no open proxy, one fetch for all, nothing wrong passes, the api's token stays with it.

The real client asks the real api, which asks a small hub.
"""

import hashlib
import http.server
import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from jsm_queue.errors import ModelError
from jsm_queue.hub import ALLOWED
from jsm_queue.kinds import BaseRef
from tests.security.scene import Machine, Scene
from tests.served import served
from tests.waiting import wait_for
from workers.cache import Cache
from workers.client import Client, Unreachable
from workers.hub import through_api

COMMIT = "c" * 40
OWN = "hf_the_api_s_own_token"
FILES = {
    "config.json": b'{"model_type": "qwen2"}',
    "model.safetensors": bytes(range(256)) * 12_000,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"pickled",
    "modeling_evil.py": b"import os",
}
WANTED = {name: body for name, body in FILES.items() if name.endswith((".json", ".safetensors"))}


@dataclass
class Upstream:
    """What the hub did. `elsewhere`: where it redirects large files to; `cut`: bytes after which it breaks off."""

    asked: Counter[str] = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    tokens: dict[str, set[str | None]] = field(default_factory=lambda: {"hub": set(), "elsewhere": set()})
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    elsewhere: str | None = None
    cut: int | None = None
    status: int | None = None


def entry(name: str) -> dict[str, Any]:
    """As the hub lists a file, by what it should be."""
    body = FILES[name]
    if name.endswith(".safetensors"):
        lfs = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        return {"type": "file", "path": name, "size": len(body), "oid": "0" * 40, "lfs": lfs, "xetHash": "a" * 64}
    oid = hashlib.sha1(f"blob {len(body)}\0".encode() + body).hexdigest()
    return {"type": "file", "path": name, "size": len(body), "oid": oid}


def handler(hub: Upstream, place: str) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.tokens[place].add(self.headers.get("Authorization"))
            if hub.status:
                self.answer(hub.status, b"{}")
            elif path == f"/api/models/owner/name/tree/{COMMIT}":
                hub.asked["list"] += 1
                self.answer(200, json.dumps([entry(name) for name in FILES]).encode())
            elif path.startswith(f"/owner/name/resolve/{COMMIT}/"):
                self.file(path.rpartition("/")[2])
            else:
                self.answer(404, b"{}")

        def file(self, name: str) -> None:
            if hub.elsewhere and place == "hub" and name.endswith(".safetensors"):
                self.send_response(302)
                self.send_header("Location", hub.elsewhere + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            hub.asked[name] += 1
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            if start:
                hub.ranges.append(name)
            cut, hub.cut = hub.cut, None
            self.answer(206 if start else 200, hub.files[name][start:], cut)

        def answer(self, status: int, body: bytes, cut: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut])

        def log_message(self, format: str, *args: object) -> None: ...

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    upstream = Upstream()
    places = ("hub", "elsewhere")
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(upstream, place)) for place in places]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{servers[0].server_port}")
    monkeypatch.setenv("HF_TOKEN", OWN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    upstream.elsewhere = f"http://localhost:{servers[1].server_port}"
    yield upstream
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def scene(hub: Upstream, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.http.close()
    scene.ctx.engine.dispose()


def holder(scene: Scene, name: str) -> Machine:
    """A worker that holds an attempt at a job with that base."""
    worker = scene.join(name)
    worker.hold(scene.add_job("score", base={"form": "hub", "files": {}, "repo": "owner/name", "revision": COMMIT}))
    return worker


def download(url: str, worker: Machine, folder: Path) -> dict[str, bytes]:
    """As a worker does it."""
    where = {"endpoint": f"{url}/v1/hub", "token": worker.token, "local_dir": folder}
    snapshot_download("owner/name", revision=COMMIT, allow_patterns=list(ALLOWED), **where)
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_ten_workers_at_once_and_the_hub_is_asked_once(hub: Upstream, scene: Scene, tmp_path: Path) -> None:
    workers = [holder(scene, f"w{n}") for n in range(10)]
    with served(scene.app) as url, ThreadPoolExecutor(10) as pool:
        got = list(pool.map(lambda worker: download(url, worker, tmp_path / worker.id), workers))
    assert all(each == WANTED for each in got)
    assert hub.asked == Counter({"list": 1, **dict.fromkeys(WANTED, 1)})
    names = {path.name for path in (scene.home / "hub").rglob("*")}
    assert not any("name" in name or name.endswith((".safetensors", ".py", ".bin")) for name in names)


def test_the_api_s_token_goes_to_the_hub_alone(
    hub: Upstream, scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    worker = holder(scene, "w")
    with served(scene.app) as url:
        download(url, worker, tmp_path / "got")
        headers = {"Authorization": f"Bearer {worker.token}"}
        told = httpx.get(f"{url}/v1/hub/api/models/owner/name/tree/{COMMIT}", headers=headers, trust_env=False)
    assert hub.tokens == {"hub": {f"Bearer {OWN}"}, "elsewhere": {None}}
    assert OWN not in told.text + str(told.headers) and "xetHash" not in told.text
    for secret in (OWN, worker.token, scene.token):
        assert secret not in caplog.text


@pytest.mark.parametrize(
    "path",
    [
        "other/name/resolve/{commit}/config.json",
        "owner/name/resolve/{other}/config.json",
        "owner/name/resolve/main/config.json",
        "owner/name/resolve/{commit}/pytorch_model.bin",
        "owner/name/resolve/{commit}/modeling_evil.py",
        "owner/name/resolve/{commit}/..%2f..%2fadmin.token",
        "api/models/other/name/tree/{commit}",
        "api/models/owner/name/revision/main",
        "..%2f..%2fowner/name/resolve/{commit}/config.json",
    ],
)
def test_it_is_no_open_proxy(hub: Upstream, scene: Scene, path: str) -> None:
    worker = holder(scene, "w")
    reply = worker.ask("GET", "/hub/" + path.format(commit=COMMIT, other="d" * 40))
    assert reply.status_code == 404
    assert set(hub.asked) <= {"list"}


def test_who_holds_no_attempt_gets_no_model(hub: Upstream, scene: Scene) -> None:
    for token in (scene.join("idle").token, scene.token):
        reply = scene.ask(token, "GET", f"/hub/owner/name/resolve/{COMMIT}/config.json")
        assert reply.status_code in (401, 404)
    assert not hub.asked


def test_the_client_says_what_the_api_said(hub: Upstream, scene: Scene) -> None:
    with served(scene.app) as url:
        api = HfApi(endpoint=f"{url}/v1/hub", token=scene.join("idle").token)
        with pytest.raises(RepositoryNotFoundError, match="No attempt that this worker holds"):
            list(api.list_repo_tree("owner/name", revision=COMMIT))
        hub.status = 403
        api = HfApi(endpoint=f"{url}/v1/hub", token=holder(scene, "w").token)
        with pytest.raises(HfHubHTTPError, match="licence"):
            list(api.list_repo_tree("owner/name", revision=COMMIT))


def ask_file(scene: Scene, worker: Machine, name: str, **headers: str) -> Any:
    return worker.ask("GET", f"/hub/owner/name/resolve/{COMMIT}/{name}", headers=headers)


def test_a_file_is_had_by_range(hub: Upstream, scene: Scene) -> None:
    worker, body = holder(scene, "w"), FILES["model.safetensors"]
    part = ask_file(scene, worker, "model.safetensors", Range="bytes=1000000-1000009")
    assert (part.status_code, part.content) == (206, body[1_000_000:1_000_010])
    assert part.headers["Content-Range"] == f"bytes 1000000-1000009/{len(body)}"
    assert ask_file(scene, worker, "model.safetensors", Range="bytes=3000000-").content == body[3_000_000:]
    assert ask_file(scene, worker, "model.safetensors", Range="bytes=9999999-").status_code == 422
    assert ask_file(scene, worker, "model.safetensors").content == body


def test_a_broken_fetch_goes_on_where_it_was(hub: Upstream, scene: Scene) -> None:
    worker, body = holder(scene, "w"), FILES["model.safetensors"]
    hub.cut = 2_000_000
    assert len(ask_file(scene, worker, "model.safetensors").content) < len(body)
    wait_for(lambda: not scene.ctx.hub._fetches, "the fetch's end")
    assert ask_file(scene, worker, "model.safetensors").content == body
    assert hub.ranges == ["model.safetensors"]


def test_what_the_hub_does_not_list_so_is_not_kept(hub: Upstream, scene: Scene, tmp_path: Path) -> None:
    worker, right = holder(scene, "w"), FILES["model.safetensors"]
    hub.files["model.safetensors"] = right[:-1] + b"?"
    with served(scene.app) as url:
        through = through_api(url, worker.token, None, tmp_path)
        cache = Cache(tmp_path / "cache", Client(url, worker.token), 0, through)
        base = BaseRef(form="hub", repo="owner/name", revision=COMMIT)

        def build(folder: Path) -> None:
            cache.build_hub_base(base, folder, tmp_path / "hub.log", threading.Event())

        with pytest.raises(Unreachable, match="broke off"):
            build(tmp_path / "1")
        assert not list((scene.home / "hub").rglob(f"{hashlib.sha256(b'model.safetensors').hexdigest()}*"))
        assert not (tmp_path / "1").exists()
        hub.files["model.safetensors"] = right
        build(tmp_path / "2")
        assert {file.name: file.read_bytes() for file in (tmp_path / "2").iterdir()} == WANTED
        with pytest.raises(ModelError, match="no repository"):
            traversing = BaseRef(form="hub", repo="owner/name", revision="../../../x")
            cache.build_hub_base(traversing, tmp_path / "3", tmp_path / "hub.log", threading.Event())


def test_a_hub_that_is_away_is_told_with_what_is_missing(hub: Upstream, scene: Scene) -> None:
    worker = holder(scene, "w")
    scene.ctx.hub.endpoint = "http://127.0.0.1:9"
    reply = ask_file(scene, worker, "config.json")
    assert reply.status_code == 503 and reply.json()["error"]["code"] == "hub_away"
    assert f"the list of owner/name at {COMMIT}" in reply.json()["error"]["message"]
    scene.ctx.hub.offline = True
    assert "HF_HUB_OFFLINE" in ask_file(scene, worker, "config.json").json()["error"]["message"]


def test_the_models_asked_for_longest_ago_go(hub: Upstream, scene: Scene) -> None:
    worker = holder(scene, "w")
    old = scene.home / "hub" / ("a" * 64)
    old.mkdir(parents=True)
    (old / "files.json").write_bytes(b"[]")
    (old / ("b" * 64)).write_bytes(b"x" * 1_000_000)
    scene.ctx.hub._limit = 3_500_000
    assert ask_file(scene, worker, "config.json").status_code == 200
    assert old.exists()
    assert ask_file(scene, worker, "model.safetensors").content == FILES["model.safetensors"]
    assert not old.exists()
