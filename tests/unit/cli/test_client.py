"""The api as the CLI uses it, against a small real server."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from jsm_queue.cli import client
from jsm_queue.errors import (
    ConflictError,
    InternalError,
    JsmError,
    NotFoundError,
    RequestError,
    SetupError,
    SpecFileError,
)


class Server(BaseHTTPRequestHandler):
    """Answers what `replies` says; keeps uploaded bytes in `files`."""

    replies: ClassVar[dict[str, tuple[int, Any]]] = {}
    files: ClassVar[dict[str, bytearray]] = {}

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.answer(*self.replies[f"{path}?{query}" if query else path])

    def do_POST(self) -> None:
        offer = json.loads(self.body())
        have = len(self.files.setdefault(offer["sha"], bytearray()))
        self.answer(200, {"have": have == offer["size"], "offset": have})

    def do_PATCH(self) -> None:
        file = self.files[self.path.rsplit("/", 1)[1]]
        assert int(self.headers["Upload-Offset"]) == len(file)
        file += self.body()
        self.answer(200, {"have": len(file) == int(self.headers["Upload-Length"]), "offset": len(file)})

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int, value: Any) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(value if isinstance(value, bytes) else json.dumps(value).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[httpx.Client]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with client.client(f"http://127.0.0.1:{server.server_port}", "token") as api:
        yield api
    server.shutdown()
    server.server_close()


def error(code: str, message: str = "what", fix: str = "do") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "fix": fix}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, error("not_found"), NotFoundError),
        (409, error("conflict"), ConflictError),
        (422, error("something newer"), JsmError),
        (404, error("http"), NotFoundError),
        (422, error("spec_file"), SpecFileError),
        (500, error("internal"), InternalError),
        (404, b"<html>", NotFoundError),
        (502, b"<html>", SetupError),
    ],
)
def test_an_error_comes_back_as_what_was_raised(api: httpx.Client, status: int, body: Any, kind: type) -> None:
    Server.replies["/x"] = (status, body)
    with pytest.raises(JsmError) as caught:
        client.call(api, "GET", "/x")
    assert type(caught.value) is kind
    assert caught.value.fix


def test_bytes_that_are_no_text_name_nothing(api: httpx.Client) -> None:
    Server.replies["/jobs/%ED%B3%BF"] = (404, error("not_found"))
    with pytest.raises(NotFoundError):
        client.call(api, "GET", f"/jobs/{client.quoted(chr(0xDCFF))}")
    with pytest.raises(RequestError, match="no text"):
        client.call(api, "GET", "/jobs", params={"attempt": chr(0xDCFF)})


def test_all_pages_are_read(api: httpx.Client) -> None:
    Server.replies["/jobs?state=done"] = (200, {"jobs": [{"id": 1}], "next": "a"})
    Server.replies["/jobs?state=done&after=a"] = (200, {"jobs": [{"id": 2}], "next": None})
    assert client.pages(api, "/jobs", "jobs", state="done") == [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize("there", [0, 5, 10_000])
def test_an_upload_goes_on_where_it_broke(
    api: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: int
) -> None:
    monkeypatch.setattr(client, "CHUNK", 4096)
    content = bytes(range(250)) * 40
    (tmp_path / "f").write_bytes(content)
    sha = hashlib.sha256(content).hexdigest()
    Server.files[sha] = bytearray(content[:there])
    assert client.upload(api, sha, tmp_path / "f") == (there < len(content))
    assert Server.files[sha] == content


def test_the_token_is_not_sent_through_a_proxy(monkeypatch: pytest.MonkeyPatch, api: httpx.Client) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    Server.replies["/y"] = (200, {})
    with client.client(str(api.base_url), "token") as again:
        assert client.call(again, "GET", "/y") == {}


def test_a_name_with_a_slash_asks_for_nothing_else() -> None:
    with pytest.raises(NotFoundError, match="no id") as caught:
        client.quoted("../x")
    assert "id" in caught.value.fix
