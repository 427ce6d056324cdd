"""A worker whose every step a scene decides. It speaks the protocol over HTTP, and its results are the true ones."""

import hashlib
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlmodel import col, select

from jsm_queue.errors import ConflictError
from jsm_queue.kinds import KINDS, ROLE_FILES
from jsm_queue.protocol import ResultRequest
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from tests.chaos import kinds
from tests.chaos.peer import Peer
from tests.chaos.pool import ChaosPool, patience
from workers import hardware
from workers.runner import collect
from workers.work import Device, Take, Work

BEAT_S = 0.5
WAIT_S = 12.0  # for an offer
GIB = 2**30


@dataclass(frozen=True)
class Made:
    """What comes of an attempt: its result, the files' bytes by their hash, checkpoints by their position."""

    result: ResultRequest
    files: dict[str, bytes]
    checkpoints: dict[int, bytes]

    @property
    def body(self) -> dict[str, Any]:
        """The result as it is sent."""
        return self.result.model_dump(mode="json")


@dataclass
class Said:
    """What its heartbeats say. `held`: attempt → phase; `silent`: it sends none."""

    free: bool = False
    run: str | None = None
    held: dict[str, str] = field(default_factory=dict)
    silent: bool = False


class Puppet(Peer):
    """One worker with one slot. It begins paused: nothing is offered to it."""

    def __init__(self, pool: ChaosPool, name: str) -> None:
        super().__init__(pool, name)
        self.said, self._lock, self._over = Said(), threading.Lock(), threading.Event()
        self.hello()
        self.rest()
        threading.Thread(target=self._beat_on, daemon=True).start()

    # ---- the session ----

    def hello(self, undelivered: tuple[str, ...] = ()) -> list[str]:
        """A new session. Returns what the api does not want."""
        with self._lock:
            self.boot, self.said = uuid.uuid4().hex, Said(held=dict.fromkeys(undelivered, "delivering"))
            machine = hardware.describe([]).model_dump(mode="json") | {"lacks": {}}
            body = {"boot_id": self.boot, "hardware": machine, "slots": [self._slot()], "undelivered": undelivered}
            return self.ask("POST", "/worker/hello", body).raise_for_status().json()["drop"]

    def beat(self, **changes: Any) -> httpx.Response:
        """A heartbeat; `changes` of what it says stay."""
        with self._lock:
            for name, value in changes.items():
                setattr(self.said, name, value)
            held = [{"attempt": attempt, "phase": phase} for attempt, phase in self.said.held.items()]
            body = {"boot_id": self.boot, "slots": [self._slot()], "attempts": held, "disk_free": GIB}
            return self.ask("POST", "/worker/heartbeat", body)

    def leave(self) -> None:
        """No heartbeat any more."""
        self._over.set()

    def _slot(self) -> dict[str, Any]:
        said = self.said
        return {"idx": 0, "kind": "cpu", "device": "cpu", "vram_free": 8 * GIB, "vram_total": 8 * GIB} | {
            "free": said.free,
            "run": said.run,
        }

    def _beat_on(self) -> None:
        while not self._over.wait(BEAT_S):
            with suppress(httpx.HTTPError):
                if not self.said.silent:
                    self.beat()

    # ---- attempts ----

    def take(self) -> dict[str, Any]:
        """Take part again, and claim what it is offered. Returns the grant."""
        self.beat(free=True, held={})
        self.pool.http.post(f"/v1/workers/{self.id}/resume").raise_for_status()
        _, reply = self.claim_next(uuid.uuid4().hex)
        grant = reply["attempts"][0]
        self.beat(free=False, run=self.run_of(grant["attempt"]), held={grant["attempt"]: "running"})
        return grant

    def offered(self) -> str:
        """The run that it is offered next."""
        deadline = time.monotonic() + patience(WAIT_S)
        while time.monotonic() < deadline:
            if run := self.offer():
                return run
            time.sleep(0.1)
        raise AssertionError(f"{self.name} is offered nothing although its slot is free")

    def claim_next(self, delivery: str) -> tuple[str, dict[str, Any]]:
        """The run that it is offered, and the answer. An offer that ended before it was claimed is made again."""
        while True:
            run = self.offered()
            answer = self.claim(run, delivery)
            with reading(self.pool.store) as session:
                ended = session.exec(select(t.Attempt).where(t.Attempt.run == run, t.Attempt.reason == "unclaimed"))
                if not (answer.status_code == ConflictError.status and ended.first()):
                    return run, answer.raise_for_status().json()

    def run_of(self, attempt: str) -> str:
        """An attempt's run."""
        with reading(self.pool.store) as session:
            return session.get_one(t.Attempt, attempt).run

    def make(self, grant: dict[str, Any]) -> Made:
        """The true result, at once."""
        with tempfile.TemporaryDirectory() as name:
            folder, checkpoints = Path(name), dict[int, bytes]()
            (folder / "out").mkdir()
            (folder / "in").mkdir()

            def keep(position: int, take: Take) -> None:
                take()(folder / "checkpoint")
                checkpoints[position] = (folder / "checkpoint").read_bytes()

            for file in grant["inputs"]:
                path = folder / "in" / file["folder"] / file["name"]
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(self.ask("GET", f"/artifacts/{file['sha']}").raise_for_status().content)
            work = Work(
                params=KINDS[grant["kind"]].params.model_validate(grant["params"]),
                inputs=folder / "in",
                folder=folder / "out",
                device=Device("cpu", 1),
                progress=lambda *_: None,
                checkpoint=keep,
            )
            result = collect(grant["kind"], kinds.run(work), folder / "out", {"seconds": 4.0})
            files = {a.sha: (folder / "out" / ROLE_FILES[a.role]).read_bytes() for a in result.artifacts}
        return Made(result, files, checkpoints)

    def checkpoint(self, attempt: str, position: int, data: bytes) -> httpx.Response:
        """Send one, and tell of it."""
        self.send(data)
        body = {"sha": hashlib.sha256(data).hexdigest(), "position": position}
        return self.ask("POST", f"/attempts/{attempt}/checkpoint", body)

    def deliver(self, attempt: str, made: Made) -> httpx.Response:
        """The files, then the result."""
        for data in made.files.values():
            self.send(data)
        return self.ask("POST", f"/attempts/{attempt}/result", made.body)

    def end(self, attempt: str, reason: str) -> httpx.Response:
        """Tell an end."""
        return self.ask("POST", f"/attempts/{attempt}/end", {"reason": reason, "message": f"a scene's {reason}"})

    def wish(self, attempt: str) -> str | None:
        """What is desired of an attempt."""
        answer = self.ask("GET", "/worker/control", params={"boot_id": self.boot, "rev": -1})
        return answer.raise_for_status().json()["desired"].get(attempt)

    def rest(self) -> None:
        """Its run is over, and it is paused: nothing is offered to it."""
        self.pool.http.post(f"/v1/workers/{self.id}/pause").raise_for_status()
        self.beat(free=True, held={})


def attempts_of(pool: ChaosPool, job: str) -> list[t.Attempt]:
    """A job's attempts, the oldest first."""
    with reading(pool.store) as session:
        query = select(t.Attempt).where(t.Attempt.job == job).order_by(col(t.Attempt.offered_at))
        return list(session.exec(query).all())
