"""Bases of the hub at submit and at the worker, through a small server that answers as the hub does."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from jsm_queue.cli import hubfiles
from jsm_queue.errors import (
    ChatTemplateError,
    HubAwayError,
    HubRefusedError,
    JsmError,
    ModelDamagedError,
    ModelUnsafeError,
    ModelUnsupportedError,
)
from jsm_queue.spec import BaseSpec
from workers.cache import REFUSED

COMMIT = "c" * 40
CONFIG = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
FILES: dict[str, Any] = {
    "config.json": CONFIG,
    "tokenizer.json": {},
    "tokenizer_config.json": {"chat_template": "{{ messages }}"},
    "model.safetensors": "weights are never read here",
}


class Hub(http.server.BaseHTTPRequestHandler):
    """One repository `owner/name`. `files`: name → its content; `gated`: its list is public, its files are not."""

    files: dict[str, Any]
    status: int
    gated: bool
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.split("?")[0]
        if self.status != 200:
            self.send({"error": "try later"}, self.status)
        elif path.startswith("/api/models/owner/name"):
            wrong = not path.endswith(("name", "/main", COMMIT))
            code = {"X-Error-Code": "RevisionNotFound"} if wrong else {}
            found = {"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
            self.send({"error": "no such revision"} if wrong else found, 404 if wrong else 200, code)
        elif path.startswith("/owner/name/resolve/") and self.gated:
            self.send({"error": "gated"}, 403, {"X-Error-Code": "GatedRepo"})
        elif path.startswith("/owner/name/resolve/"):
            name = path.rsplit("/", 1)[1]
            self.asked.append(name)
            self.send(self.files[name], 200, {"ETag": f'"{abs(hash(name)):x}"', "X-Repo-Commit": COMMIT})
        else:
            self.send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def send(self, value: Any, status: int, headers: dict[str, str] | None = None) -> None:
        body = (value if isinstance(value, str) else json.dumps(value)).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    handler = type("TestHub", (Hub,), {"files": dict(FILES), "status": 200, "gated": False, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path)
    yield handler
    server.shutdown()
    server.server_close()


def use(monkeypatch: pytest.MonkeyPatch, url: str, folder: Path) -> None:
    """The package read its environment when it was imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", url)


def ask(template: bool = False, revision: str = "main", source: str = "owner/name") -> str:
    return hubfiles.ask(BaseSpec(name="b", source=source), revision, template)[0]


def test_a_branch_becomes_a_commit_and_no_weights_are_read(hub: type[Hub]) -> None:
    assert ask() == COMMIT
    assert set(hub.asked) <= {"config.json", "tokenizer_config.json"}


INDEX = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"config.json": None}, ModelDamagedError, "it has no config.json"),
        ({"config.json": []}, ModelDamagedError, "does not hold an object"),
        ({"config.json": "{"}, ModelDamagedError, "not valid JSON"),
        ({"config.json": {"model_type": "qwen2"}}, ModelDamagedError, "names no architectures"),
        ({"config.json": CONFIG | {"quantization_config": {"bits": 4}}}, ModelUnsupportedError, "quantized already"),
        ({"config.json": {"architectures": ["Own"], "auto_map": {}}}, ModelUnsafeError, "Python code of its own"),
        ({"tokenizer.json": None}, ModelDamagedError, "it has no tokenizer.json"),
        ({"tokenizer_config.json": {}}, ChatTemplateError, "no chat template"),
        ({"tokenizer_config.json": None}, ChatTemplateError, "no chat template"),
        ({"model.safetensors": None}, ModelDamagedError, "it has no model.safetensors"),
        ({"model.safetensors": None, "pytorch_model.bin": ""}, ModelUnsafeError, "pickled (pytorch_model.bin)"),
        (
            {"model.safetensors": None, "model.safetensors.index.json": INDEX, "model-1.safetensors": ""},
            ModelDamagedError,
            "weights are missing: model-2.safetensors",
        ),
    ],
)  # fmt: skip
def test_what_the_list_and_the_config_tell(
    hub: type[Hub], changes: dict[str, Any], kind: type[JsmError], message: str
) -> None:
    hub.files = {name: value for name, value in (FILES | changes).items() if value is not None}
    with pytest.raises(kind) as caught:
        ask()
    assert caught.value.message.startswith("bases.b: owner/name at main: ") and message in caught.value.message


def test_a_chat_template_may_come_from_the_spec_or_a_file(hub: type[Hub]) -> None:
    hub.files = FILES | {"tokenizer_config.json": {}}
    assert ask(template=True) == COMMIT
    hub.files["chat_template.jinja"] = "{{ messages }}"
    assert ask() == COMMIT


def test_who_is_refused_is_told_what_to_do(hub: type[Hub]) -> None:
    for source, revision in (("no/body", "main"), ("owner/name", "nothing"), ("owner/na..me", "main")):
        with pytest.raises(HubRefusedError, match=f"bases.b: {source} at {revision} cannot be had"):
            ask(source=source, revision=revision)
    hub.gated = True
    with pytest.raises(HubRefusedError, match="cannot be had") as caught:
        ask()
    assert "licence" in caught.value.fix and "HF_TOKEN" in caught.value.fix


def test_a_hub_that_is_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(HubAwayError, match=r"the hub at http://127\.0\.0\.1:9 does not answer") as caught:
        ask()
    assert caught.value.exit_code == 3
    assert ask(revision=COMMIT) == COMMIT, "a commit needs no hub"


def test_a_hub_that_fails_is_away_and_not_refusing(hub: type[Hub]) -> None:
    hub.status = 501  # a 500 it tries again by itself, for long
    with pytest.raises(HubAwayError, match="does not answer"):
        ask()


def test_offline_mode_says_what_is_missing_and_where(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True, raising=False)
    with pytest.raises(HubAwayError, match="owner/name at main: HF_HUB_OFFLINE is set, so http") as caught:
        ask()
    assert "revision" in caught.value.fix
    assert ask(revision=COMMIT) == COMMIT
    assert hub.asked == []


def test_a_worker_that_may_not_ask_says_so_and_does_not_try_for_ever(tmp_path: Path) -> None:
    folder = tmp_path / "owner--name"
    command = [sys.executable, "-m", "workers.hub", "owner/name", COMMIT, str(folder)]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", cwd=Path(__file__).parents[2]
    )
    assert done.returncode == REFUSED
    last = done.stderr.strip().splitlines()[-1]
    assert str(folder) in last and "HF_HUB_OFFLINE" in last and "http://127.0.0.1:9" in last
