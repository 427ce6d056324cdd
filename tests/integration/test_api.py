"""The api over HTTP, on a real store, without a worker: auth, error shape, artifacts, submit, cancel."""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.routes import artifacts as artifact_routes
from jsm_queue import lifecycle
from jsm_queue.kinds import JobDraft
from jsm_queue.planner import Wanted
from jsm_queue.settings import Settings
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, writing
from jsm_queue.store.tokens import create_token
from tests.unit.studies import inputs, spec

DATA = b"corpus " * 1000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def client(tmp_path: Path, database_url: str) -> Iterator[TestClient]:
    settings = Settings(home=tmp_path, database_url=database_url, broker_url="redis://127.0.0.1:1/0")
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
        ("GET", "/v1/studies/abcdef/data", 404),
        ("GET", "/v1/jobs/abcdef", 404),
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
@pytest.mark.parametrize(
    "path", ["/v1/studies", "/v1/jobs/abcdef", "/v1/workers", "/v1/worker/broker", f"/v1/artifacts/{SHA}"]
)
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


def test_an_upload_that_breaks_off_is_no_bug_of_the_api(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"authorization": client.headers["Authorization"], "upload-offset": "0", "upload-length": str(len(DATA))}
    scope = {
        "type": "http",
        "method": "PATCH",
        "path": f"/v1/artifacts/{SHA}",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    said = iter([{"type": "http.request", "body": DATA[:500], "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, Any]:
        return next(said)

    async def send(_: Any) -> None:
        pass

    asyncio.run(client.app(scope, receive, send))  # type: ignore[arg-type]
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
    assert client.post("/v1/artifacts", json={"sha": SHA, "size": len(DATA)}).json()["offset"] == 500


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


def test_a_study_that_is_over_is_not_said_to_go_on(client: TestClient) -> None:
    study = client.post("/v1/studies", json=body(client)).json()["id"]
    assert client.post(f"/v1/studies/{study}/pause").json()["state"] == "paused"
    client.delete(f"/v1/studies/{study}")
    for what in ("pause", "resume", "retry"):
        answer = client.post(f"/v1/studies/{study}/{what}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict"), what
        assert "was cancelled" in answer.json()["error"]["message"]
    with writing(client.app.state.context.engine) as session:  # type: ignore[attr-defined]
        session.get_one(t.Study, study).state = "ended"
    for what, status in (("pause", 409), ("resume", 409), ("retry", 200)):
        assert client.post(f"/v1/studies/{study}/{what}").status_code == status, what


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


def test_who_joins_again_with_the_token_that_it_chose_is_the_same_worker(client: TestClient) -> None:
    """The answer to the first request may have been lost, with the api or with the worker."""
    invite = client.post("/v1/workers/invites").json()["invite"]
    headers, chosen = {"Authorization": f"Bearer {invite}"}, {"name": "pc", "token": "t" * 43}
    first, again = (client.post("/v1/workers/join", json=chosen, headers=headers).json() for _ in range(2))
    assert first == again and first["token"] == chosen["token"]
    assert len(client.get("/v1/workers").json()["workers"]) == 1
    other = chosen | {"token": "u" * 43}
    assert client.post("/v1/workers/join", json=other, headers=headers).status_code == 401
    assert client.post("/v1/workers/join", json=chosen | {"token": "short"}, headers=headers).status_code == 422


PREPARE = JobDraft("prepare", {"x": 1})
LATENCY = JobDraft("latency", {"hardware": "RTX 4060 Ti 16 GB"})


def add_jobs(client: TestClient) -> str:
    """A study that lists two jobs. Returns its id."""
    study = client.post("/v1/studies", json=body(client)).json()["id"]
    with writing(client.app.state.context.engine) as s:  # type: ignore[attr-defined]
        lifecycle.list_jobs(s, study, [Wanted("scale", None, job) for job in (PREPARE, LATENCY)], 0.0)
    return study


def join(client: TestClient) -> tuple[str, dict[str, str]]:
    """A worker's id and what it authorizes itself with."""
    invite = client.post("/v1/workers/invites").json()["invite"]
    joined = client.post("/v1/workers/join", json={"name": "pc"}, headers={"Authorization": f"Bearer {invite}"}).json()
    return joined["worker"], {"Authorization": f"Bearer {joined['token']}"}


def start(client: TestClient, worker: str, job: JobDraft) -> None:
    """The worker runs the job, as attempt `a0a0a0a0`."""
    with writing(client.app.state.context.engine) as s:  # type: ignore[attr-defined]
        s.add(t.Run(id="r0r0r0r0", worker=worker, slot=0, state="claimed", offered_at=1.0))
        s.flush()
        row = {"run": "r0r0r0r0", "worker": worker, "offered_at": 1.0, "started_at": 2.0}
        s.add(t.Attempt(id="a0a0a0a0", job=job.id, state="running", **row))
        s.get_one(t.Job, job.id).state = "active"


def job_row(client: TestClient, study: str, job: JobDraft) -> dict[str, Any]:
    return next(row for row in client.get(f"/v1/studies/{study}/jobs").json()["jobs"] if row["id"] == job.id)


def test_why_an_attempt_ended_is_told_with_its_job(client: TestClient) -> None:
    study = add_jobs(client)
    worker, headers = join(client)
    assert job_row(client, study, PREPARE)["ended"] is None
    start(client, worker, PREPARE)
    end = {"reason": "crashed", "message": "killed by SIGSEGV", "log_tail": "a line\nthe last line"}
    assert client.post("/v1/attempts/a0a0a0a0/end", json=end, headers=headers).status_code == 204
    assert job_row(client, study, PREPARE)["ended"] == {"reason": "crashed", "message": "killed by SIGSEGV"}
    job = client.get(f"/v1/jobs/{PREPARE.id[:8]}").json()
    assert (job["id"], job["kind"], job["error"]) == (PREPARE.id, "prepare", None)
    (attempt,) = job["attempts"]
    assert attempt.pop("ended_at") > 2.0
    assert attempt == end | {
        "id": "a0a0a0a0",
        "worker": "pc",
        "state": "ended",
        "offered_at": 1.0,
        "started_at": 2.0,
    }


def test_what_a_study_waits_for_is_told(client: TestClient) -> None:
    study = add_jobs(client)
    with writing(client.app.state.context.engine) as s:  # type: ignore[attr-defined]
        s.get_one(t.Job, LATENCY.id).state = "ready"
    waiting = client.get(f"/v1/studies/{study}").json()["waiting_for"]
    assert waiting == "a worker of class 'RTX 4060 Ti 16 GB' for latency"
    client.delete(f"/v1/studies/{study}")
    assert client.get(f"/v1/studies/{study}").json()["waiting_for"] is None


def test_the_data_report_is_there_once_prepare_is_done(client: TestClient) -> None:
    study = add_jobs(client)
    early = client.get(f"/v1/studies/{study}/data")
    assert (early.status_code, early.json()["error"]["code"]) == (404, "not_found")
    report = {"pairs": 280, "oddities": ["川"]}
    sha = upload(client, json.dumps(report).encode())
    with writing(client.app.state.context.engine) as s:  # type: ignore[attr-defined]
        s.add(t.ArtifactRef(job=PREPARE.id, role="data_report", sha=sha))
    reply = client.get(f"/v1/studies/{study[:8]}/data")
    assert reply.json() == report
    assert reply.headers["content-type"] == "application/json"


def test_a_result_with_a_record_twice_is_not_valid(client: TestClient) -> None:
    add_jobs(client)
    worker, headers = join(client)
    start(client, worker, PREPARE)
    record = {"item": "q1", "name": "nll", "value": 1.0}
    reply = client.post("/v1/attempts/a0a0a0a0/result", json={"records": [record, record]}, headers=headers)
    assert reply.status_code == 422
    assert "comes more than once" in reply.json()["error"]["message"]


def test_the_paths_for_people_are_documented(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/jobs/{job_id}", "/v1/studies/{study_id}/jobs", "/v1/studies/{study_id}/data"} <= paths.keys()
    assert all(operation.get("description") for path in paths.values() for operation in path.values())


def test_only_files_that_nobody_wants_are_collected(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    sha = upload(client, DATA)
    monkeypatch.setattr(artifact_routes, "UNTOUCHED_S", -1.0)
    listed = client.post("/v1/artifacts/collect", params={"dry_run": True}).json()
    assert (listed["artifacts"], listed["bytes"], listed["removed"]) == ([sha], len(DATA), 0)
    assert client.get(f"/v1/artifacts/{sha}").content == DATA
    assert client.post("/v1/artifacts/collect").json()["removed"] == 1
    assert client.get(f"/v1/artifacts/{sha}").status_code == 404
    assert upload(client, DATA) == sha
    assert client.get(f"/v1/artifacts/{sha}").content == DATA
