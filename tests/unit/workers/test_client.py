"""Which answers mean retry, drop or leave; uploads that go on where they broke off."""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from jsm_queue import tls
from jsm_queue.errors import (
    AuthError,
    ConflictError,
    ForbiddenError,
    GoneError,
    JsmError,
    ModelError,
    NotFoundError,
    RequestError,
    SetupError,
)
from jsm_queue.protocol import ArtifactIn, BrokerReply, EndRequest
from workers import client as http
from workers.client import Client, Stopped, Unreachable, Untrusted, patiently

Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer) -> Client:
    made = Client("http://api", "secret")
    made._http = httpx.Client(base_url="http://api", transport=httpx.MockTransport(answer))
    return made


def error(status: int) -> Answer:
    body = {"error": {"code": "x", "message": "what is wrong", "fix": "Do this"}}
    return lambda _: httpx.Response(status, json=body)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, AuthError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (409, ConflictError),
        (410, GoneError),
        (422, RequestError),
    ],
)
def test_a_refusal_carries_the_apis_words(status: int, kind: type[JsmError]) -> None:
    with pytest.raises(kind) as caught:
        client(error(status)).get("/v1/worker/broker", BrokerReply)
    assert type(caught.value) is kind
    assert str(caught.value) == "what is wrong. Do this"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_unreachable(status: int) -> None:
    with pytest.raises(Unreachable):
        client(error(status)).get("/v1/worker/broker", BrokerReply)


@pytest.mark.parametrize("url", ["http://[::1", "127.0.0.1:8080", "localhost:8080", "http://", "ftp://api", ""])
def test_an_address_that_is_none_is_told_at_once(url: str) -> None:
    with pytest.raises(SetupError, match="is not an api's URL"):
        Client(url, "secret")


def test_a_proxys_redirection_is_no_answer() -> None:
    moved = client(lambda _: httpx.Response(302, headers={"Location": "http://login/"}))
    with pytest.raises(Unreachable):
        moved.tell("/v1/attempts/a1b2c3d4/end", EndRequest(reason="oom"))
    with pytest.raises(Unreachable):
        list(moved.download("0" * 64, 0))


def test_a_proxys_page_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        client(lambda _: httpx.Response(200, text="<html>")).get("/v1/worker/broker", BrokerReply)
    with pytest.raises(Unreachable):
        client(lambda _: httpx.Response(502, text="<html>")).get("/v1/worker/broker", BrokerReply)


def test_a_broken_connection_is_unreachable() -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow", request=request)

    with pytest.raises(Unreachable, match="ReadTimeout"):
        client(fail).get("/v1/worker/broker", BrokerReply)


def test_the_token_is_sent_and_no_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    made = Client("http://api/", "secret")
    assert made._http.headers["Authorization"] == "Bearer secret"
    assert made._http.trust_env is False


class Uploads:
    """A pretended api that has some bytes of a file already."""

    def __init__(self, have: bytes = b"", conflict: bool = False, whole: bool = True) -> None:
        self.have, self.conflict, self.whole, self.headers = have, conflict, whole, httpx.Headers()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(200, json={"have": False, "offset": len(self.have)})
        if self.conflict:
            return error(409)(request)
        self.headers = request.headers
        self.have += request.read()
        return httpx.Response(200, json={"have": self.whole, "offset": len(self.have)})


def artifact(body: bytes) -> ArtifactIn:
    return ArtifactIn(role="gguf", sha=hashlib.sha256(body).hexdigest(), size=len(body))


def test_an_upload_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    body, file = b"0123456789" * 1000, tmp_path / "model.gguf"
    file.write_bytes(body)
    api = Uploads(body[:4000])
    client(api).upload(file, artifact(body), threading.Event())
    assert api.have == body
    assert (api.headers["Upload-Offset"], api.headers["Upload-Length"]) == ("4000", "10000")


def test_what_the_api_has_is_not_sent(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.method == "POST"
        return httpx.Response(200, json={"have": True, "offset": 3})

    client(answer).upload(tmp_path / "not even there", artifact(b"abc"), threading.Event())


def test_a_refused_upload_is_begun_again_unless_the_file_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"right")
    with pytest.raises(Unreachable):
        client(Uploads(conflict=True)).upload(file, artifact(b"right"), threading.Event())
    with pytest.raises(ModelError, match="changed after it was written"):
        client(Uploads(conflict=True)).upload(file, artifact(b"other"), threading.Event())


def test_an_upload_counts_once_the_api_says_so(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"right")
    with pytest.raises(Unreachable, match="begun again"):
        client(Uploads(whole=False)).upload(file, artifact(b"right"), threading.Event())
    with pytest.raises(ModelError, match="changed after it was written"):
        client(Uploads(whole=False)).upload(file, artifact(b"right but longer"), threading.Event())


def test_an_upload_ends_when_the_agent_leaves(tmp_path: Path) -> None:
    file, stop = tmp_path / "model.gguf", threading.Event()
    file.write_bytes(b"body")
    stop.set()
    with pytest.raises(Stopped):
        client(Uploads()).upload(file, artifact(b"body"), stop)


def test_patience_outlives_an_outage_and_notes_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.001)
    tries, notes = iter([Unreachable("a"), Unreachable("b"), None]), []

    def call() -> str:
        if failure := next(tries):
            raise failure
        return "done"

    assert patiently(call, threading.Event(), notes.append) == "done"
    assert notes == ["a"]


def test_patience_ends_when_it_is_told() -> None:
    stop = threading.Event()

    def call() -> None:
        stop.set()
        raise Unreachable("away")

    with pytest.raises(Stopped):
        patiently(call, stop, lambda _: None)


def test_a_refusal_ends_patience() -> None:
    def call() -> None:
        raise ConflictError("replaced")

    with pytest.raises(ConflictError):
        patiently(call, threading.Event(), lambda _: None)


@contextlib.contextmanager
def answering(made: tls.Material) -> Iterator[str]:
    """The URL of a server with that certificate."""
    server = HTTPServer(("127.0.0.1", 0), Answering)
    server.socket = tls.server_context(made.certificate, made.key).wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_an_api_is_known_by_its_authority_and_by_no_other(tmp_path: Path) -> None:
    made, other = (tls.make(tmp_path / name, []) for name in ("made", "other"))
    with answering(made) as url:
        known = Client(url, "secret", tls.read_ca(made.ca))
        assert known.get("/v1/worker/broker", BrokerReply).queue == "q"
        for ca in (None, tls.read_ca(other.ca)):
            with pytest.raises(Unreachable, match="not this pool's; nothing is sent"):
                Client(url, "secret", ca).get("/v1/worker/broker", BrokerReply)
    assert Answering.asked == ["Bearer secret"]


def test_a_clock_that_is_wrong_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "BACKDATED", timedelta(days=-1))  # as if this machine's clock were behind
    made = tls.make(tmp_path, [])
    with answering(made) as url, pytest.raises(Untrusted, match="not good by this machine's clock") as caught:
        Client(url, "secret", tls.read_ca(made.ca)).get("/v1/worker/broker", BrokerReply)
    assert caught.value.by_clock


class Answering(BaseHTTPRequestHandler):
    """Answers as the api does, and keeps the tokens that it heard."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.headers["Authorization"])
        body = b'{"broker_url": "redis://127.0.0.1:1/0", "queue": "q"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
