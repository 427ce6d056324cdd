"""A compromised worker: what it can read, overwrite, find out and claim beyond the attempts that it holds."""

from pathlib import Path

import pytest

from jsm_queue import lifecycle
from jsm_queue.artifacts import path_of
from jsm_queue.protocol import CheckpointRequest
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from tests.security.scene import NOTHING, SECRET, Machine, Scene, sha

MINE = b"what the job needs " * 100


def test_it_reads_what_its_attempts_name_and_nothing_else(scene: Scene, mallory: Machine, bob: Machine) -> None:
    other = scene.add_job("train")
    secret = scene.deliver(other, SECRET)
    bob.hold(scene.add_job(needs=other))
    assert bob.get(secret).content == SECRET
    needed = scene.add_job("convert")
    given = scene.deliver(needed, MINE)
    leaf = b"a base's weights"
    scene.send(scene.token, leaf)
    assert [mallory.get(name).status_code for name in (given, sha(leaf))] == [404, 404]
    job = scene.add_job(needs=needed, base={"form": "folder", "files": {"model.safetensors": sha(leaf)}})
    mallory.hold(job)
    assert mallory.get(given).content == MINE
    assert mallory.get(sha(leaf)).content == leaf
    hidden, unknown = mallory.get(secret), mallory.get(NOTHING)
    assert hidden.status_code == unknown.status_code == 404
    assert hidden.text.replace(secret, "") == unknown.text.replace(NOTHING, ""), "it cannot tell which files there are"


@pytest.mark.parametrize(("state", "reason", "may"), [
    ("offered", None, True), ("suspect", None, True), ("ended", "lost", True), ("ended", "cancelled", True),
    ("ended", "crashed", False), ("ended", "superseded", False), ("accepted", None, False),
])  # fmt: skip
def test_an_attempt_is_held_as_long_as_its_result_counts(
    scene: Scene, mallory: Machine, state: str, reason: str | None, may: bool
) -> None:
    needed = scene.add_job("convert")
    given = scene.deliver(needed, MINE)
    job = scene.add_job(needs=needed)
    mallory.hold(job, state, reason)
    if state == "accepted":
        with writing(scene.ctx.engine) as session:
            session.get_one(t.Job, job).state = "done"
    assert mallory.get(given).status_code == (200 if may else 404)
    assert mallory.offer(b"a result").status_code == (200 if may else 403)


def test_who_holds_nothing_sends_nothing(scene: Scene, mallory: Machine) -> None:
    for reply in (mallory.offer(SECRET), mallory.send(SECRET)):
        assert reply.status_code == 403
        assert reply.json()["error"].keys() == {"code", "message", "fix"}
    assert not list((scene.home / "artifacts").rglob("*" + sha(SECRET)[:8] + "*"))


def test_it_cannot_find_out_which_files_there_are(scene: Scene, mallory: Machine) -> None:
    there = scene.deliver(scene.add_job("train"), SECRET)
    mallory.hold(scene.add_job())
    other = b"never sent here        " * 1000
    assert len(other) == len(SECRET)
    for data, name in ((SECRET, there), (other, sha(other))):
        assert mallory.offer(data).json() == {"have": False, "offset": 0}
        assert mallory.send(b"?" * len(data), name).status_code == 409
        again = mallory.ask("POST", "/artifacts", json={"sha": name, "size": len(data)})
        assert again.json() == {"have": False, "offset": 0}
    assert scene.admin("GET", f"/artifacts/{there}").content == SECRET


def test_it_cannot_claim_anothers_file_as_its_result(scene: Scene, mallory: Machine) -> None:
    """Else the job that needs this result would be given the other's file."""
    there = scene.deliver(scene.add_job("train"), SECRET)
    attempt = mallory.hold(scene.add_job("convert"))
    result = {"artifacts": [{"role": "gguf", "sha": there, "size": len(SECRET)}]}
    reply = mallory.ask("POST", f"/attempts/{attempt}/result", json=result)
    assert reply.status_code == 409 and "not uploaded by this worker" in reply.json()["error"]["message"]
    reply = mallory.ask("POST", f"/attempts/{attempt}/checkpoint", json={"sha": there, "position": 1})
    assert reply.status_code == 409
    assert mallory.get(there).status_code == 404


def test_what_it_really_has_it_may_name_and_have_back(scene: Scene, mallory: Machine, bob: Machine) -> None:
    scene.deliver(scene.add_job("train"), SECRET)
    attempt = mallory.hold(scene.add_job("convert"))
    assert mallory.send(SECRET).json()["have"]
    assert mallory.offer(SECRET).json() == {"have": True, "offset": len(SECRET)}
    assert mallory.get(sha(SECRET)).content == SECRET
    result = {"artifacts": [{"role": "gguf", "sha": sha(SECRET), "size": len(SECRET)}]}
    assert mallory.ask("POST", f"/attempts/{attempt}/result", json=result).json() == {"accepted": True}
    bob.hold(scene.add_job())
    assert bob.offer(SECRET).json()["have"] is False


def test_it_cannot_spoil_what_another_sends(scene: Scene, mallory: Machine, bob: Machine) -> None:
    for worker in (mallory, bob):
        worker.hold(scene.add_job())
    half = len(MINE) // 2
    headers = {"Upload-Offset": "0", "Upload-Length": str(len(MINE))}
    bob.ask("PATCH", f"/artifacts/{sha(MINE)}", content=MINE[:half], headers=headers)
    mallory.send(b"x" * half, sha(MINE))
    mallory.ask("PATCH", f"/artifacts/{sha(MINE)}", content=b"x" * 10, headers=headers)
    assert bob.offer(MINE).json() == {"have": False, "offset": half}
    assert bob.send(MINE[half:], sha(MINE), half).json()["have"]
    assert path_of(scene.ctx.artifacts, sha(MINE)).read_bytes() == MINE


def test_it_cannot_fill_the_disk(tmp_path: Path) -> None:
    scene = Scene(tmp_path, attempt_bytes=10_000, attempt_files=3)
    mallory = scene.join("mallory")
    mallory.hold(scene.add_job())
    large = mallory.ask("POST", "/artifacts", json={"sha": NOTHING, "size": 10_001})
    assert large.status_code == 403 and "JSM_ATTEMPT_BYTES" in large.json()["error"]["fix"]
    headers = {"Upload-Offset": "0", "Upload-Length": "10001"}
    assert mallory.ask("PATCH", f"/artifacts/{NOTHING}", content=b"x", headers=headers).status_code == 403
    headers = {"Upload-Offset": "0", "Upload-Length": "9000"}
    assert mallory.ask("PATCH", f"/artifacts/{'e' * 64}", content=b"x", headers=headers).status_code == 200
    assert mallory.send(b"y" * 2000).status_code == 403, "it said that it would send 9 000 bytes more"
    assert mallory.send(b"y" * 500).status_code == 200
    assert mallory.send(b"z").status_code == 200
    assert mallory.send(b"").status_code == 403, "a fourth file"
    mallory.hold(scene.add_job())
    assert mallory.send(b"").status_code == 200, "each attempt has its own"


def test_old_checkpoints_go_at_once_and_count_no_more(scene: Scene, mallory: Machine) -> None:
    job = scene.add_job("train")
    attempt = mallory.hold(job)
    data = [f"checkpoint {n}".encode() for n in range(1, 5)]
    for position, content in enumerate(data, start=1):
        mallory.send(content)
        body = CheckpointRequest(sha=sha(content), position=position).model_dump()
        assert mallory.ask("POST", f"/attempts/{attempt}/checkpoint", json=body).status_code == 204
    here = [path_of(scene.ctx.artifacts, sha(content)).exists() for content in data]
    assert here == [False, False, True, True]
    assert mallory.get(sha(data[0])).status_code == 404
    with reading(scene.ctx.engine) as session:
        assert lifecycle.checkpoint is not None and session.get_one(t.Job, job).checkpoint == sha(data[3])


def test_it_cannot_speak_for_anothers_attempt(scene: Scene, mallory: Machine, bob: Machine) -> None:
    attempt = bob.hold(scene.add_job())
    bodies = {
        "result": {},
        "end": {"reason": "error", "message": "given up"},
        "checkpoint": {"sha": NOTHING, "position": 1},
        "log": {"offset": 0, "text": "lies\n"},
    }
    for path, body in bodies.items():
        assert mallory.ask("POST", f"/attempts/{attempt}/{path}", json=body).status_code == 409, path
    with reading(scene.ctx.engine) as session:
        assert session.get_one(t.Attempt, attempt).state == "running"
    assert not list((scene.home / "logs").rglob("*.log"))


@pytest.mark.parametrize(
    "name", ["../../admin.token", "..%2f..%2fadmin.token", "%2e%2e/store.sqlite", "a" * 63, "A" * 64]
)
def test_names_never_become_paths(scene: Scene, mallory: Machine, name: str) -> None:
    (scene.home / "admin.token").write_text("the secret")
    mallory.hold(scene.add_job())
    for token in (scene.token, mallory.token):
        for path in (f"/artifacts/{name}", f"/hub/{name}/resolve/{'c' * 40}/config.json"):
            reply = scene.ask(token, "GET", path)
            assert reply.status_code in (401, 404, 422) and "secret" not in reply.text
        headers = {"Upload-Offset": "0", "Upload-Length": "1"}
        before = sorted(scene.home.rglob("*"))
        sent = scene.ask(token, "PATCH", f"/artifacts/{name}", content=b"x", headers=headers)
        assert sent.status_code in (404, 405, 422)
        assert sorted(scene.home.rglob("*")) == before
