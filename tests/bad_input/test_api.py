"""Whatever is sent to the api: one JSON error shape, the right 4xx, nothing written, never a 500."""

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from sqlmodel import func, select

from api import requests
from api.app import create_app
from jsm_queue import lifecycle
from jsm_queue.errors import RequestError
from jsm_queue.kinds import JobDraft
from jsm_queue.planner import Wanted
from jsm_queue.settings import Settings
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, reading, writing
from jsm_queue.store.tokens import create_token, token_hash
from tests import stores
from tests.unit.studies import inputs, spec
from tests.waiting import wait_for

ATTEMPT = "a0a0a0a0"
RESULT = f"/v1/attempts/{ATTEMPT}/result"
JOB = JobDraft("judge", {"x": 1})
SHA = "0" * 64


@contextmanager
def pool(home: Path, database_url: str) -> Iterator[TestClient]:
    """An api with one study, one worker, and that worker's running attempt."""
    store = open_store(database_url)
    token = create_token(store, "admin")
    app = create_app(Settings(home=home, database_url=database_url, broker_url="redis://127.0.0.1:1/0"))
    with writing(store) as s:
        s.add(t.Worker(id="w", name="pc", token_hash=token_hash("worker"), joined_at=0.0, lease_until=2e9))
        toy = spec()
        bodies = (toy.model_dump(mode="json"), inputs(toy).model_dump(mode="json"))
        study, _ = lifecycle.add_study(s, *bodies, now=0.0)
        lifecycle.list_jobs(s, study.id, [Wanted("scale", None, JOB)], 0.0)
        s.add(t.Run(id="r0r0r0r0", worker="w", slot=0, state="claimed", offered_at=1.0))
        s.flush()
        row = {"run": "r0r0r0r0", "worker": "w", "offered_at": 1.0, "started_at": 2.0}
        s.add(t.Attempt(id=ATTEMPT, job=JOB.id, state="running", **row))
        s.get_one(t.Job, JOB.id).state = "active"
    made = TestClient(app, headers={"Authorization": f"Bearer {token}"}, raise_server_exceptions=False)
    with made as client:
        yield client
    store.dispose()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One for all tests here: what is refused changes nothing."""
    home = tmp_path_factory.mktemp("api")
    with stores.store_url("sqlite", home) as url, pool(home, url) as client:
        yield client


@pytest.fixture
def on_postgres(tmp_path: Path) -> Iterator[TestClient]:
    with stores.store_url("postgres", tmp_path) as url, pool(tmp_path, url) as client:
        yield client


WORKER = {"Authorization": "Bearer worker"}


def refused(reply: Any, status: int, code: str) -> str:
    """Checks the one shape. Returns the message."""
    assert reply.status_code == status, reply.text[:500]
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()["error"]
    assert reply.json().keys() == {"error"} and error.keys() == {"code", "message", "fix"}
    assert error["code"] == code and error["message"] and error["fix"]
    assert "Traceback" not in reply.text
    return error["message"]


def stored(client: TestClient) -> int:
    """How many records there are."""
    with reading(client.app.state.context.engine) as session:  # type: ignore[attr-defined]
        return session.exec(select(func.count()).select_from(t.Record)).one()


def record(**changes: Any) -> dict[str, Any]:
    return {"item": "q1", "name": "nll", "value": 1.0} | changes


def send(client: TestClient, text: str | bytes, path: str = RESULT) -> Any:
    return client.post(path, content=text, headers=WORKER | {"Content-Type": "application/json"})


@pytest.mark.parametrize(
    "text",
    [
        b'{"records": [',
        b"\xff\xfe{}",
        b"[]",
        b"null",
        b'"text"',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b'{"provenance": {"x": ' + b"9" * 5000 + b"}}",
        b'{"provenance": {"x": 1e999}}',
        b'{"provenance": {"x": NaN}}',
        b'{"provenance": {"x": -Infinity}}',
        b'{"provenance": {"x": 100000000000000000000}}',
        b'{"provenance": {"x": "\\ud800"}}',
        b'{"provenance": {"x": "a\\u0000b"}}',
        b'{"provenance": {"x": "\\\\\\u0000"}}',
        b'{"provenance": {"\\u0000": 1}}',
        b'{"provenance": "\x00"}',
    ],
    ids=lambda text: text[:40].decode("latin-1"),
)
def test_a_body_that_cannot_be_kept(client: TestClient, text: bytes) -> None:
    refused(send(client, text), 422, "invalid")
    refused(send(client, text, "/v1/worker/hello"), 422, "invalid")
    assert stored(client) == 0


def test_a_backslash_before_u0000_is_no_nul() -> None:
    requests.check_json(rb'{"x": "\\u0000"}')
    with pytest.raises(RequestError):
        requests.check_json(rb'{"x": "\\\u0000"}')


def test_what_postgres_cannot_hold(on_postgres: TestClient) -> None:
    """Some of it gets past SQLite."""
    study = on_postgres.get("/v1/studies").json()["studies"][0]["id"]
    for query in ("name=%00", "name=a%00b", "job=%00"):
        refused(on_postgres.get(f"/v1/studies/{study}/records?{query}"), 422, "invalid")
    for value in (b'"\\u0000"', b'"\\ud800"', b"1e400"):
        refused(send(on_postgres, b'{"provenance": {"x": ' + value + b"}}"), 422, "invalid")
    refused(on_postgres.get("/v1/studies/a%00bcdef"), 422, "invalid")
    assert stored(on_postgres) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": "nan"},
        {"value": "inf"},
        {"value": "many"},
        {"value": None},
        {"item": "x" * 201},
        {"item": ""},
        {"item": 7},
        {"name": "x" * 33},
        {"name": "Not a name"},
        {"name": "nll\n"},
        {"meta": "text"},
    ],
    ids=str,
)
def test_a_wrong_record(client: TestClient, wrong: dict[str, Any]) -> None:
    text = json.dumps({"records": [record(), record(item="q2") | wrong]})
    said = refused(send(client, text), 422, "invalid")
    assert "records.1" in said
    assert stored(client) == 0


def test_more_than_a_result_may_have(client: TestClient) -> None:
    """Or a million that are none: the first one is told."""
    metrics = {f"m{i}": 1.0 for i in range(201)}
    assert "at most 200" in refused(send(client, json.dumps({"metrics": metrics})), 422, "invalid")
    said = refused(send(client, f'{{"records": [{",".join(["0"] * 1_000_000)}]}}'), 422, "invalid")
    assert "records.0" in said and len(said) < 500


@pytest.mark.parametrize("path", ["/v1/studies", RESULT, "/v1/workers/join", "/v1/nothing"])
def test_a_body_that_is_too_large(client: TestClient, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_BODY", 2**20)
    monkeypatch.setattr(requests, "MAX_RESULT", 2**20)
    text = b'{"spec": "' + b"x" * 2**20 + b'"}'
    assert "1 MiB" in refused(send(client, text, path), 413, "too_large")

    def pieces() -> Iterator[bytes]:
        yield text[:1000]
        yield text[1000:]

    chunked = client.post(path, content=pieces(), headers=WORKER)
    refused(chunked, 413, "too_large")
    assert stored(client) == 0


@pytest.mark.parametrize("token", [None, "Bearer", "Bearer wrong", "Basic x", "Bearer a b", "Bearer \x7f\xe3"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/studies"), ("POST", "/v1/worker/heartbeat"), ("POST", RESULT), ("GET", f"/v1/artifacts/{SHA}")],
)
def test_a_token_that_is_missing_or_wrong(client: TestClient, token: str | None, method: str, path: str) -> None:
    headers: Any = {"Authorization": (token or "").encode("latin-1")}
    slots = [{"idx": 0, "kind": "cpu", "device": "cpu", "vram_free": 1, "free": True}]
    body = {"boot_id": "b0b0b0b0", "slots": slots} if method == "POST" else None
    refused(client.request(method, path, headers=headers, json=body), 401, "auth")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/nothing", 404),
        ("/nothing", 404),
        ("/v1/studies/abcdef", 404),
        ("/v1/studies/%25%25%25%25%25%25", 404),
        ("/v1/studies/______", 404),
        ("/v1/studies/%E6%B2%B3%E5%B7%9D%E5%B7%A5%E5%AD%A6", 404),
        ("/v1/studies/..%2F..%2Fetc%2Fpasswd", 404),
        ("/v1/studies/%FF%FE%FF%FE%FF%FE", 404),
        ("/v1/studies/'%20OR%201=1--", 404),
        ("/v1/studies/a%00bcdef", 422),
        (f"/v1/studies/{'a' * 5000}", 404),
        ("/v1/jobs/..", 404),
        ("/v1/jobs/%00", 422),
        ("/v1/artifacts/..%2Fstore.sqlite", 404),
        ("/v1/artifacts/nohash", 422),
        (f"/v1/artifacts/{'A' * 64}", 422),
        (f"/v1/artifacts/{SHA}%0A", 422),
    ],
)
def test_ids_with_odd_characters(client: TestClient, path: str, status: int) -> None:
    refused(client.get(path), status, {404: "not_found", 422: "invalid"}[status])


@pytest.mark.parametrize("path", ["/v1/studies", "/v1/workers", RESULT, f"/v1/artifacts/{SHA}"])
def test_a_method_that_a_path_does_not_have(client: TestClient, path: str) -> None:
    reply = client.put(path, json={})
    refused(reply, 405, "method")
    assert reply.headers["allow"]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/studies", "GET, POST"),
        (f"/v1/artifacts/{SHA}", "GET, PATCH"),
        ("/v1/studies/abcdef", "DELETE, GET"),
        ("/healthz", "GET"),
    ],
)
def test_every_method_of_a_path_is_allowed(client: TestClient, path: str, methods: str) -> None:
    assert client.put(path, json={}).headers["allow"] == methods


@pytest.mark.parametrize("path", ["/v1/studies/", "/healthz/", "/v1/workers/"])
def test_a_slash_too_many_is_another_path(client: TestClient, path: str) -> None:
    refused(client.get(path, follow_redirects=False), 404, "not_found")


@pytest.fixture
def artifact(client: TestClient) -> str:
    """The path of a file of nine bytes."""
    data = b"123456789"
    sha = hashlib.sha256(data).hexdigest()
    headers = {"Upload-Offset": "0", "Upload-Length": "9"}
    assert client.patch(f"/v1/artifacts/{sha}", content=data, headers=headers).status_code in (200, 409)
    return f"/v1/artifacts/{sha}"


@pytest.mark.parametrize(
    "wanted", ["bytes=a-b", "bytes=3-1", "x", "bytes", "bytes=", "bytes=-", "rows=0-1", "bytes=0-1,x", "9" * 5000]
)
def test_what_is_no_range(client: TestClient, artifact: str, wanted: str) -> None:
    said = refused(client.get(artifact, headers={"Range": wanted}), 422, "invalid")
    assert wanted[:60] in said and len(said) < 100


@pytest.mark.parametrize("wanted", ["bytes=9-", "bytes=99-", "bytes=99-100", "bytes=-0", "bytes=0-1,9-"])
def test_a_range_behind_the_end(client: TestClient, artifact: str, wanted: str) -> None:
    reply = client.get(artifact, headers={"Range": wanted})
    assert "9 bytes" in refused(reply, 416, "range")
    assert reply.headers["content-range"] == "bytes */9"


@pytest.mark.parametrize(
    ("wanted", "text"),
    [("bytes=0-0", "1"), ("Bytes=7-", "89"), ("bytes=-2", "89"), ("bytes=5-999", "6789"), ("bytes=-99", "123456789")],
)
def test_a_range_of_the_file(client: TestClient, artifact: str, wanted: str, text: str) -> None:
    reply = client.get(artifact, headers={"Range": wanted})
    assert (reply.status_code, reply.text) == (206, text)


def test_every_whole_number_that_is_sent_has_bounds(client: TestClient) -> None:
    """Without them a column, a file or a JSON reader meets a number that it cannot hold."""
    boundless = [
        where
        for where, found in sent(client, "integer", ["parameters", "requestBody"])
        if not ({"maximum", "exclusiveMaximum"} & found.keys() and {"minimum", "exclusiveMinimum"} & found.keys())
    ]
    assert boundless == []


def test_every_text_that_is_sent_has_a_limit(client: TestClient) -> None:
    """In a body; addresses have the server's. A pattern has one too: its last part repeats so many times at most."""
    boundless = [where for where, found in sent(client, "string", ["requestBody"]) if not limited(found)]
    assert boundless == []


def limited(text: dict[str, Any]) -> bool:
    ends = re.search(r"(\{\d+(,\d+)?\}|[^+*\])}])\$$", text.get("pattern", ""))
    return bool({"maxLength", "enum", "const"} & text.keys() or ends)


def sent(client: TestClient, kind: str, within: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each place in a request of any route where that kind of value stands, and its schema."""
    schema = client.get("/openapi.json").json()
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            for where, found in of_kind(kind, [route.get(part) for part in within], schema):
                yield f"{method} {path}: {where}", found


def of_kind(
    kind: str, part: Any, schema: dict[str, Any], where: str = "", seen: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Below references too, and the keys of objects, which are texts."""
    if isinstance(part, dict):
        if part.get("type") == kind:
            yield where, part
        if kind == "string" and isinstance(part.get("additionalProperties"), dict):
            yield f"{where}.keys", part.get("propertyNames", {})
        if (name := part.get("$ref")) and name not in seen:
            target = schema["components"]["schemas"][name.rpartition("/")[2]]
            yield from of_kind(kind, target, schema, f"{where}.{name}", (*seen, name))
    for key, below in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        if key != "propertyNames":
            yield from of_kind(kind, below, schema, f"{where}.{key}", seen)


@pytest.mark.parametrize("offset", [2**22 + 1, 2**53, 2**63 - 1, 2**63, 10**40])
def test_an_offset_behind_every_log(client: TestClient, offset: int) -> None:
    refused(client.get(f"/v1/jobs/{JOB.id}/log", params={"offset": offset, "attempt": ATTEMPT}), 422, "invalid")


@pytest.mark.parametrize("position", [-1, 2**53 + 1, str(10**40), 1.5])
def test_a_report_of_a_place_that_is_none(client: TestClient, position: Any) -> None:
    report = {"attempt": ATTEMPT, "phase": "running", "position": position}
    slot = {"idx": 0, "kind": "cpu", "device": "cpu", "vram_free": 0, "free": True}
    body = {"boot_id": "b0b0b0b0", "slots": [slot], "attempts": [report]}
    refused(client.post("/v1/worker/heartbeat", json=body, headers=WORKER), 422, "invalid")


def test_a_slot_that_is_named_twice(client: TestClient) -> None:
    slot = {"idx": 0, "kind": "cpu", "device": "cpu", "vram_free": 0, "free": True}
    body = {"boot_id": "b0b0b0b0", "slots": [slot, slot]}
    assert "slot 0 comes more than once" in refused(
        client.post("/v1/worker/heartbeat", json=body, headers=WORKER), 422, "invalid"
    )


@pytest.mark.parametrize("limit", ["0", "-1", "1000000000", "ten", "1.5", "", "9" * 5000, "NaN"])
@pytest.mark.parametrize("what", ["jobs", "records"])
def test_limits(client: TestClient, what: str, limit: str) -> None:
    study = client.get("/v1/studies").json()["studies"][0]["id"]
    refused(client.get(f"/v1/studies/{study}/{what}", params={"limit": limit}), 422, "invalid")


@pytest.mark.parametrize("after", ["-1", "1" * 30, "x", "\0"])
def test_offsets(client: TestClient, after: str) -> None:
    study = client.get("/v1/studies").json()["studies"][0]["id"]
    refused(client.get(f"/v1/studies/{study}/records", params={"after": after}), 422, "invalid")
    far = client.get(f"/v1/studies/{study}/records", params={"after": 2**53})
    assert far.json() == {"records": [], "next": None}


@pytest.mark.parametrize("query", ["state=nothing", "state=%00", "after=%00"])
def test_filters(client: TestClient, query: str) -> None:
    study = client.get("/v1/studies").json()["studies"][0]["id"]
    refused(client.get(f"/v1/studies/{study}/jobs?{query}"), 422, "invalid")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {"epochs": 0}}, "training.epochs: 0 is too small: at least 1"),
        ({"epoch": 1}, "epoch: unknown key"),
        ({"training": {"lr": "fast", "epochz": 1}}, "training.epochz: unknown key, did you mean `epochs`?"),
        ({"name": ""}, "name: found"),
        ({"bases": []}, "bases: too few entries"),
        ({"system_prompt": 7}, "system_prompt: found 7, expected text"),
    ],
    ids=str,
)
def test_a_wrong_spec_is_told_as_at_submit(client: TestClient, changes: dict[str, Any], said: str) -> None:
    toy = spec()
    body = {"spec": toy.model_dump(mode="json") | changes, "inputs": inputs(toy).model_dump(mode="json")}
    assert said in refused(client.post("/v1/studies", json=body), 422, "spec")
    assert len(client.get("/v1/studies").json()["studies"]) == 1


@pytest.mark.parametrize(
    "wrong", [{"x": 1}, {"source": {"sha": "no", "suffix": ".a"}}, {"bases": {"a\n": {}}}], ids=str
)
def test_wrong_inputs(client: TestClient, wrong: dict[str, Any]) -> None:
    toy = spec()
    body = {"spec": toy.model_dump(mode="json"), "inputs": inputs(toy).model_dump(mode="json") | wrong}
    refused(client.post("/v1/studies", json=body), 422, "spec")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 422),
        ({"Upload-Offset": "-1", "Upload-Length": "3"}, 422),
        ({"Upload-Offset": "x", "Upload-Length": "3"}, 422),
        ({"Upload-Offset": "9" * 30, "Upload-Length": "3"}, 422),
        ({"Upload-Offset": "0", "Upload-Length": str(2**63)}, 422),
        ({"Upload-Offset": "9", "Upload-Length": "3"}, 409),
        ({"Upload-Offset": "0", "Upload-Length": "2"}, 409),
    ],
    ids=str,
)
def test_a_wrong_upload_leaves_nothing(client: TestClient, headers: dict[str, str], status: int) -> None:
    reply = client.patch(f"/v1/artifacts/{SHA}", content=b"abc", headers=headers)
    refused(reply, status, {422: "invalid", 409: "conflict"}[status])
    assert client.post("/v1/artifacts", json={"sha": SHA, "size": 3}).json() == {"have": False, "offset": 0}


@pytest.mark.parametrize("size", [-1, 10**30, "3x", None])
def test_a_wrong_offer(client: TestClient, size: Any) -> None:
    refused(client.post("/v1/artifacts", json={"sha": SHA, "size": size}), 422, "invalid")


def test_an_end_with_odd_text(client: TestClient) -> None:
    for wrong in ({"reason": "nothing"}, {"reason": "oom", "message": "x" * 4001}, {"reason": "oom", "log_tail": "\0"}):
        reply = client.post(f"/v1/attempts/{ATTEMPT}/end", json=wrong, headers=WORKER)
        refused(reply, 422, "invalid")


# Over a real connection


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A server of the api with small limits."""
    app = create_app(Settings(home=tmp_path, broker_url="redis://127.0.0.1:1/0"))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, "the api")
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(30)


def raw(port: int, head: str, body: bytes, leave: bool = False) -> tuple[int, dict[str, Any]]:
    """Sends bytes as they are, reads to the end. Returns status and JSON, both empty for a closed connection.

    What is no HTTP at all the server refuses before our api sees it, in a line of text.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(f"POST /v1/studies HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n".encode() + body)
        if leave:  # nothing more comes; otherwise the server would wait for the rest
            connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(2**16), b""))
    first, _, rest = answer.partition(b"\r\n\r\n")
    said = json.loads(rest) if b"application/json" in first else {}
    return (int(first.split()[1]) if first else 0), said


def test_a_content_length_that_lies(port: int) -> None:
    """More than it says is another request, which is none; less of it is a broken one. The api lives on."""
    for length, body in ((2, b"{}x"), (1, b"{}"), (1000, b"{}")):
        status, _ = raw(port, f"Content-Length: {length}\r\n", body, leave=length > len(body))
        assert status in (0, 400, 401, 422)  # 0: the connection is closed
    for length in ("-1", "many", "1\r\nContent-Length: 2"):
        assert raw(port, f"Content-Length: {length}\r\n", b"{}")[0] in (0, 400)
    status, said = raw(port, "Content-Length: 2\r\n", b"{}")
    assert (status, said["error"]["code"]) == (401, "auth")


def test_who_announces_too_much_hears_it_at_once(port: int) -> None:
    status, said = raw(port, "Content-Length: 999999999999\r\n", b"{")
    assert (status, said["error"]["code"]) == (413, "too_large")


def test_who_falls_silent_does_not_keep_the_connection(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "SILENCE_S", 0.2)
    status, said = raw(port, "Content-Length: 20\r\n", b"{")
    assert (status, said["error"]["code"]) == (400, "disconnected")


def test_a_large_body_over_a_connection_gets_its_answer(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_BODY", 2**20)
    body = b"x" * (3 * 2**19)
    status, said = raw(port, f"Content-Length: {len(body)}\r\n", body)
    assert (status, said["error"]["code"]) == (413, "too_large")
    chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    status, said = raw(port, "Transfer-Encoding: chunked\r\n", chunk)
    assert (status, said["error"]["code"]) == (413, "too_large")
