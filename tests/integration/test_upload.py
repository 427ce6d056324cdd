"""`jsm submit` brings files to the real api: with another client, in pieces, and when something goes wrong."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from jsm_queue.cli import client
from jsm_queue.errors import ConflictError
from jsm_queue.settings import Settings
from jsm_queue.store.database import open_store
from jsm_queue.store.tokens import create_token

DATA = bytes(range(250)) * 40
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CHUNK", 4096)
    monkeypatch.setattr(client, "PAUSE_S", 0.0)


@pytest.fixture
def server(tmp_path: Path, database_url: str) -> Iterator[TestClient]:
    settings = Settings(home=tmp_path, database_url=database_url, broker_url="redis://127.0.0.1:1/0")
    token = create_token(open_store(settings.store_url), "admin")
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {token}"}) as server:
        yield server


def connect(server: TestClient, before: Callable[[httpx.Request], None] = lambda _: None) -> httpx.Client:
    """A client as the CLI makes one; `before` sees each request before the api does."""

    def forward(request: httpx.Request) -> httpx.Response:
        before(request)
        reply = server.request(
            request.method, request.url.path, content=request.read(), headers=dict(request.headers.items())
        )
        return httpx.Response(reply.status_code, content=reply.content)

    headers = {"Authorization": server.headers["Authorization"]}
    return httpx.Client(base_url="http://api", headers=headers, transport=httpx.MockTransport(forward))


@pytest.fixture
def api(server: TestClient) -> Iterator[httpx.Client]:
    with connect(server) as api:
        yield api


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "model").write_bytes(DATA)
    return tmp_path / "model"


def patch(api: httpx.Client, start: int, content: bytes) -> None:
    headers = {"Upload-Offset": str(start), "Upload-Length": str(len(DATA))}
    assert api.patch(f"/v1/artifacts/{SHA}", content=content, headers=headers).is_success


def arrived(api: httpx.Client) -> bytes:
    return api.get(f"/v1/artifacts/{SHA}").content


def test_a_file_arrives_once(api: httpx.Client, file: Path) -> None:
    assert client.upload(api, SHA, file)
    assert arrived(api) == DATA
    assert not client.upload(api, SHA, file)


def test_an_empty_file_arrives(api: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    sha = hashlib.sha256(b"").hexdigest()
    assert client.upload(api, sha, tmp_path / "empty")
    assert api.get(f"/v1/artifacts/{sha}").content == b""
    assert not client.upload(api, sha, tmp_path / "empty")


def test_two_clients_send_the_same_file_in_turns(server: TestClient, api: httpx.Client, file: Path) -> None:
    """Each piece of ours meets one of the other client's that was faster."""

    def faster(request: httpx.Request) -> None:
        if request.method == "PATCH":
            there = api.post("/v1/artifacts", json={"sha": SHA, "size": len(DATA)}).json()["offset"]
            patch(api, there, DATA[there : there + 1000])

    with connect(server, faster) as ours:
        assert client.upload(ours, SHA, file)
    assert arrived(api) == DATA


def test_what_the_api_refused_is_sent_once_more(api: httpx.Client, file: Path) -> None:
    patch(api, 0, b"x" * 5000)
    assert client.upload(api, SHA, file)
    assert arrived(api) == DATA


def test_a_file_that_is_another_by_now_is_given_up(api: httpx.Client, file: Path) -> None:
    for changed in (b"x" * len(DATA), DATA[:10], DATA + b"x"):
        file.write_bytes(changed)
        with pytest.raises(ConflictError, match="model did not arrive whole"):
            client.upload(api, SHA, file)
    assert api.get(f"/v1/artifacts/{SHA}").status_code == 404


def test_an_answer_that_the_file_is_not_whole_is_no_success(file: Path) -> None:
    """An api that says neither yes nor why not."""
    sent: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "PATCH":
            sent.append(int(request.headers["Upload-Offset"]))
        return httpx.Response(200, json={"have": False, "offset": 0})

    with (
        httpx.Client(base_url="http://api", transport=httpx.MockTransport(answer)) as api,
        pytest.raises(ConflictError),
    ):
        client.upload(api, SHA, file)
    assert sent == [0, 0]
