"""A pool for attackers: the api on a real store, its admin, and workers that hold what a test gives them."""

import hashlib
import uuid
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from api.app import create_app
from jsm_queue.canonical import content_hash
from jsm_queue.settings import Settings
from jsm_queue.store import tables as t
from jsm_queue.store.database import writing
from jsm_queue.store.tokens import create_token

SECRET = b"another study's corpus " * 1000
NOTHING = "f" * 64


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Scene:
    """`admin` asks as an admin; `ask` as whoever's token is given."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home = home
        self.app = create_app(Settings(home=home, broker_url="redis://127.0.0.1:1/0", **settings))
        self.ctx = self.app.state.context
        self.token = create_token(self.ctx.engine, "admin")
        self.http = TestClient(self.app, raise_server_exceptions=False)

    def ask(self, token: str, method: str, path: str, **arguments: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}"} | arguments.pop("headers", {})
        return self.http.request(method, f"/v1{path}", headers=headers, **arguments)

    def admin(self, method: str, path: str, **arguments: Any) -> Any:
        return self.ask(self.token, method, path, **arguments)

    def join(self, name: str) -> "Machine":
        invite = create_token(self.ctx.engine, "invite")
        reply = self.ask(invite, "POST", "/workers/join", json={"name": name}).json()
        return Machine(self, reply["worker"], reply["token"])

    def add_job(self, kind: str = "judge", needs: str | None = None, **params: Any) -> str:
        job = content_hash({"kind": kind, "params": params, "one": uuid.uuid4().hex})
        with writing(self.ctx.engine) as session:
            session.add(t.Job(id=job, kind=kind, params=params, state="active", created_at=1.0))
            session.flush()
            if needs:
                session.add(t.JobNeed(job=job, name="gguf", needs=needs))
        return job

    def deliver(self, job: str, data: bytes, role: str = "gguf") -> str:
        """A done job's file, as an admin uploads it. Returns its hash."""
        self.send(self.token, data)
        with writing(self.ctx.engine) as session:
            session.add(t.ArtifactRef(job=job, role=role, sha=sha(data)))
            session.get_one(t.Job, job).state = "done"
        return sha(data)

    def send(self, token: str, data: bytes, claimed: str | None = None, start: int = 0) -> Any:
        """Bytes, said to be those of `claimed`."""
        headers = {"Upload-Offset": str(start), "Upload-Length": str(start + len(data))}
        return self.ask(token, "PATCH", f"/artifacts/{claimed or sha(data)}", content=data, headers=headers)

    def offer(self, token: str, data: bytes) -> Any:
        return self.ask(token, "POST", "/artifacts", json={"sha": sha(data), "size": len(data)})


class Machine:
    """A worker, whoever has its token."""

    def __init__(self, scene: Scene, worker: str, token: str) -> None:
        self.scene, self.id, self.token = scene, worker, token

    def hold(self, job: str, state: str = "running", reason: str | None = None) -> str:
        """An attempt at the job. Returns its id."""
        attempt, run = uuid.uuid4().hex, uuid.uuid4().hex
        with writing(self.scene.ctx.engine) as session:
            session.add(t.Run(id=run, worker=self.id, slot=0, state="closed", offered_at=1.0))
            session.flush()
            row = {"id": attempt, "job": job, "run": run, "worker": self.id, "offered_at": 1.0}
            session.add(t.Attempt(state=state, reason=reason, **row))
        return attempt

    def ask(self, method: str, path: str, **arguments: Any) -> Any:
        return self.scene.ask(self.token, method, path, **arguments)

    def get(self, name: str) -> Any:
        return self.ask("GET", f"/artifacts/{name}")

    def send(self, data: bytes, claimed: str | None = None, start: int = 0) -> Any:
        return self.scene.send(self.token, data, claimed, start)

    def offer(self, data: bytes) -> Any:
        return self.scene.offer(self.token, data)
