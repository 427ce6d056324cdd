"""A worker that joined properly and then does what no worker should. Every one of its lies must be refused."""

import hashlib
import secrets
import time
import uuid
from typing import Any

import httpx
from sqlmodel import col, select

from jsm_queue.kinds import KINDS
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from tests.chaos.peer import Peer
from tests.chaos.pool import ChaosPool

WAIT_S = 8.0  # for an offer
HARDWARE = {"hardware_class": "liar", "os": "x", "cpu": "x", "cores": 1, "memory_bytes": 2**33}


class Liar(Peer):
    """One session of such a worker. `believed`: the lies that the api took for true."""

    def __init__(self, pool: ChaosPool) -> None:
        super().__init__(pool, "liar")
        self.believed: list[str] = []
        self.boot = uuid.uuid4().hex
        slot = {"idx": 0, "kind": "cpu", "device": "cpu", "vram_free": 2**33, "vram_total": 2**33, "free": True}
        hello = {"boot_id": self.boot, "hardware": HARDWARE, "slots": [slot]}
        self.ask("POST", "/worker/hello", hello).raise_for_status()

    def take(self) -> dict[str, Any] | None:
        """The attempt that it was offered and claimed; None where there was none."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            if run := self.offer():
                return self.claim(run, uuid.uuid4().hex).raise_for_status().json()["attempts"][0]
            time.sleep(0.1)
        return None

    def fall_silent(self) -> None:
        """It claims what it is offered, and is never heard of again."""
        self.take()

    def lie_about_a_hash(self) -> None:
        """It sends other bytes than it says, and a result of files that it never sent."""
        attempt = self.take()
        if attempt is None:
            return
        data = secrets.token_bytes(500)
        sha = hashlib.sha256(data + b"!").hexdigest()
        self._must_be_refused("bytes of another hash", self.send(data, sha))
        roles = KINDS[attempt["kind"]].outputs
        files = [{"role": role, "sha": hashlib.sha256(role.encode()).hexdigest(), "size": 9} for role in roles]
        if files:
            told = self.ask("POST", f"/attempts/{attempt['attempt']}/result", {"artifacts": files})
            self._must_be_refused("a result whose files it never sent", told)

    def replay(self) -> None:
        """It uses its invite again, another session's name, and other workers' attempts."""
        again = self.ask("POST", "/workers/join", {"name": "liar"}, self.invite)
        self._must_be_refused("an invite that is used up", again)
        beat = {"boot_id": uuid.uuid4().hex, "slots": [{"idx": 0, "kind": "cpu", "device": "x", "vram_free": 0}]}
        beat["slots"][0]["free"] = True
        self._must_be_refused("a session that never said hello", self.ask("POST", "/worker/heartbeat", beat))
        with reading(self.pool.store) as session:
            others = select(t.Attempt.id).where(t.Attempt.worker != self.id).order_by(col(t.Attempt.offered_at).desc())
            attempts = session.exec(others.limit(5)).all()
        for attempt in attempts:
            for path, body in (
                ("end", {"reason": "error"}),
                ("result", {}),
                ("checkpoint", {"sha": "0" * 64, "position": 9}),
            ):
                self._must_be_refused(
                    f"{path} of another's attempt", self.ask("POST", f"/attempts/{attempt}/{path}", body)
                )

    def _must_be_refused(self, lie: str, answer: httpx.Response) -> None:
        if answer.is_success:
            self.believed.append(f"the api believed {lie}: {answer.text[:200]}")
