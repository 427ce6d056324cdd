"""The api over HTTP, on a real store, without a worker: auth, error shape, artifacts, submit, cancel."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from jsm_queue.settings import Settings
from jsm_queue.store.database import open_store
from jsm_queue.store.tokens import create_token
from tests.unit.studies import inputs, spec

DATA = b"corpus " * 1000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(home=tmp_path, broker_url="redis://127.0.0.1:1/0")
    token = create_token(open_store(settings.store_url), "admin")
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


def upload(client: TestClient, data: bytes, cut: int = 0) -> str:
    """Send a file as `jsm submit` does, in two pieces when `cut` says where."""
    sha = hashlib.sha256(data).hexdigest()
    for start, end in ((0, cut), (cut, len(data))):
        state = client.post("/v1/artifacts", json={"sha": sha, "size": len(data)}).json()
        if state["have"]:
            break
        assert state["offset"] == start
        headers = {"Upload-Offset": str(start), "Upload-Length": str(len(data))}
        assert client.patch(f"/v1/artifacts/{sha}", content=data[start:end], headers=headers).status_code == 200
    return sha


def body(client: TestClient) -> dict[str, object]:
    toy = spec()
    refs = inputs(toy).model_dump(mode="json")
    refs["source"]["sha"] = upload(client, DATA)
    for name, base in refs["bases"].items():
        base["files"] = {"model.safetensors": upload(client, name.encode())}
    return {"spec": toy.model_dump(mode="json"), "inputs": refs}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/studies/abcdef", 404),
        ("GET", "/v1/artifacts/nohash", 422),
        ("POST", "/v1/studies", 422),
        ("PUT", "/v1/studies", 405),
    ],
)
def test_every_error_has_the_one_shape(client: TestClient, method: str, path: str, status: int) -> None:
    reply = client.request(method, path)
    assert reply.status_code == status
    assert reply.json()["error"].keys() == {"code", "message", "fix"}


@pytest.mark.parametrize("token", [None, "Bearer wrong", "Basic x"])
@pytest.mark.parametrize("path", ["/v1/studies", "/v1/workers", "/v1/worker/broker", f"/v1/artifacts/{SHA}"])
def test_nothing_without_a_token(client: TestClient, token: str | None, path: str) -> None:
    del client.headers["Authorization"]
    reply = client.get(path, headers={"Authorization": token} if token else {})
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "auth"


def test_a_broken_upload_resumes_and_a_wrong_one_vanishes(client: TestClient) -> None:
    upload(client, DATA, cut=1000)
    assert client.get(f"/v1/artifacts/{SHA}").content == DATA
    part = client.get(f"/v1/artifacts/{SHA}", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, DATA[10:20])
    false = hashlib.sha256(b"something else").hexdigest()
    headers = {"Upload-Offset": "0", "Upload-Length": "5"}
    assert client.patch(f"/v1/artifacts/{false}", content=b"lies!", headers=headers).status_code == 409
    assert client.get(f"/v1/artifacts/{false}").status_code == 404
    assert client.post("/v1/artifacts", json={"sha": false, "size": 5}).json() == {"have": False, "offset": 0}


def test_the_same_spec_is_the_same_study_and_cancel_stops_it(client: TestClient) -> None:
    request = body(client)
    first = client.post("/v1/studies", json=request)
    again = client.post("/v1/studies", json=request)
    assert (first.status_code, again.status_code) == (201, 200)
    study = first.json()["id"]
    assert again.json()["id"] == study and again.json()["resumed"]
    assert client.get("/v1/studies").json()["studies"][0]["name"] == "toy"
    assert client.get(f"/v1/studies/{study[:8]}").json()["spec"]["name"] == "toy"
    assert client.delete(f"/v1/studies/{study}").json()["state"] == "cancelled"
    assert client.post("/v1/studies", json=request).json()["state"] == "running"


def test_a_study_whose_files_were_not_uploaded_is_refused(client: TestClient) -> None:
    request = body(client)
    request["inputs"]["source"]["sha"] = "0" * 64  # type: ignore[index]
    reply = client.post("/v1/studies", json=request)
    assert reply.status_code == 422 and "not uploaded" in reply.json()["error"]["message"]


def test_an_invite_is_good_for_one_worker(client: TestClient) -> None:
    invite = client.post("/v1/workers/invites").json()["invite"]
    headers = {"Authorization": f"Bearer {invite}"}
    joined = client.post("/v1/workers/join", json={"name": "pc"}, headers=headers)
    assert joined.status_code == 201
    assert client.post("/v1/workers/join", json={"name": "pc"}, headers=headers).status_code == 401
    worker = {"Authorization": f"Bearer {joined.json()['token']}"}
    assert client.get("/v1/worker/broker", headers=worker).json()["queue"] == f"jsm.w.{joined.json()['worker']}"
    assert client.get("/v1/studies", headers=worker).status_code == 401
