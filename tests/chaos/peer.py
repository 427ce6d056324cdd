"""One who joined the pool properly and speaks its protocol over HTTP: what it says is up to who it is."""

import hashlib
import secrets
from typing import Any

import httpx
from sqlmodel import select

from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from jsm_queue.store.tokens import create_token
from tests.chaos.pool import ChaosPool


class Peer:
    """A worker's name and secrets. `boot`: its session, "" before it said hello."""

    def __init__(self, pool: ChaosPool, name: str) -> None:
        self.pool, self.name, self.boot = pool, name, ""
        self.invite, self.token = create_token(pool.store, "invite"), secrets.token_urlsafe(32)
        joined = self.ask("POST", "/workers/join", {"name": name, "token": self.token}, self.invite)
        self.id: str = joined.raise_for_status().json()["worker"]

    def offer(self) -> str | None:
        """The run that it is offered now."""
        with reading(self.pool.store) as session:
            return session.exec(select(t.Run.id).where(t.Run.worker == self.id, t.Run.state == "offered")).first()

    def claim(self, run: str, delivery: str) -> httpx.Response:
        """Of a message of that delivery."""
        return self.ask("POST", f"/runs/{run}/claim", {"boot_id": self.boot, "delivery": delivery})

    def send(self, data: bytes, sha: str = "") -> httpx.Response:
        """A file, as if its hash were `sha`."""
        sha = sha or hashlib.sha256(data).hexdigest()
        answer = self.ask("POST", "/artifacts", {"sha": sha, "size": len(data)})
        if not answer.is_success or answer.json()["have"]:
            return answer
        headers = {"Upload-Offset": str(answer.json()["offset"]), "Upload-Length": str(len(data))}
        return self.ask("PATCH", f"/artifacts/{sha}", content=data[answer.json()["offset"] :], headers=headers)

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, token: str | None = None, **given: Any
    ) -> httpx.Response:
        """Any request."""
        headers = {"Authorization": f"Bearer {token or self.token}"} | given.pop("headers", {})
        if body is not None:
            given["json"] = body
        url = f"{self.pool.url}/v1{path}"
        return httpx.request(method, url, headers=headers, timeout=30, trust_env=False, **given)
