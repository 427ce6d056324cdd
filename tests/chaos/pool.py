"""A pool of six machines on networks that can fail. Whatever dies is started again, as a supervisor does."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import httpx
import psutil

from jsm_queue import processes
from jsm_queue.cli.client import upload
from jsm_queue.errors import JsmError
from jsm_queue.store.tokens import create_token
from tests.chaos.proxy import Proxy
from tests.chaos.study import Toy
from tests.pool import Pool
from workers.runner import RESULT

WORKERS = tuple(f"w{i}" for i in range(6))
LEASE_S, OFFER_S = 4.0, 3.0
TIMES = {"JSM_LEASE_S": str(LEASE_S), "JSM_HEARTBEAT_S": "1", "JSM_OFFER_S": str(OFFER_S), "JSM_TICK_S": "0.2"}
LEAVE_S = 20.0  # from a worker's SIGTERM to its end


class Looks(Protocol):
    """Who is to look while others wait."""

    def look(self) -> None:
        """Raises where something is wrong."""


class ChaosPool(Pool):
    """`lines`: (worker, "api" | "broker") → the proxy between them. `down`: part → until when it stays dead.

    `saved`: attempts whose result lay whole on the disk of a machine that died.
    """

    def __init__(self, home: Path, database_url: str | None, step_s: float, bug: str = "") -> None:
        given = TIMES | {"CHAOS_STEP_S": str(step_s), "CHAOS_BUG": bug}
        given |= {"CUDA_VISIBLE_DEVICES": ""}  # six machines would want the one GPU
        super().__init__(home, **given | ({"JSM_DATABASE_URL": database_url} if database_url else {}))
        self.lines = {(w, end): Proxy(self.ports[port]) for w in WORKERS for end, port in ENDS.items()}
        self.invites = {worker: create_token(self.store, "invite") for worker in WORKERS}
        self.skews = dict.fromkeys(WORKERS, 0.0)
        self.down: dict[str, float] = {}
        self.frozen: dict[int, psutil.Process] = {}
        self.saved: set[str] = set()
        self.deaths = 0

    # ---- parts ----

    def start_api(self, **environment: str) -> processes.Process:
        """The api, in which a bug may be planted."""
        return self.start("api", ["-m", "tests.chaos.api"], **environment)

    def start_everything(self) -> None:
        """Valkey, the api and the six workers; waits for the api alone."""
        self.start_core()
        self.start_workers()

    def start_workers(self) -> None:
        """All six."""
        for worker in WORKERS:
            self.start_part(worker)

    def start_part(self, name: str) -> None:
        """Start one part, as its supervisor would."""
        if name not in WORKERS:
            {"valkey": self.start_valkey, "api": self.start_api}[name]()
            return
        api = f"http://127.0.0.1:{self.lines[name, 'api'].port}"
        argv = ["-m", "tests.chaos.agent", "--home", str(self.home / name), "--api", api, "--name", name]
        argv += ["--invite", self.invites[name]]
        broker = str(self.lines[name, "broker"].port)
        self.start(name, argv, CHAOS_BROKER_PORT=broker, CHAOS_SKEW_S=str(self.skews[name]))

    def kill_part(self, name: str, for_s: float) -> None:
        """As a power cut does: the part and all that it started, down for a while."""
        processes.kill_tree(self.parts[name].pid)
        self.parts[name].wait()
        self.saved |= self.finished(name)
        self.down[name] = time.monotonic() + for_s

    def finished(self, worker: str) -> set[str]:
        """The attempts whose result is whole on that worker's disk, and not delivered."""
        home = self.home / worker
        found = [*home.glob(f"outbox/*/{RESULT}"), *home.glob(f"work/*/out/{RESULT}")]
        return {path.relative_to(home).parts[1] for path in found}

    def tend(self) -> None:
        """Start again what died and is not to stay down."""
        for name, process in list(self.parts.items()):
            if process.poll() is not None and time.monotonic() >= self.down.get(name, 0):
                self.down.pop(name, None)
                self.deaths += 1
                self.start_part(name)

    def machine(self, name: str) -> list[psutil.Process]:
        """A part and the processes that it started."""
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.parts[name].pid)
            return [root, *root.children(recursive=True)]
        return []

    def runners(self, name: str) -> list[psutil.Process]:
        """A worker's runner."""
        return [process for process in self.machine(name)[1:] if _says(process, "tests.chaos.runner")]

    def freeze(self, found: list[psutil.Process]) -> None:
        """SIGSTOP."""
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
                self.frozen[process.pid] = process

    def thaw(self, found: list[psutil.Process]) -> None:
        """SIGCONT."""
        for process in found:
            self.frozen.pop(process.pid, None)
            with suppress(psutil.NoSuchProcess):
                process.resume()

    # ---- from outside ----

    def answers(self) -> bool:
        """Whether the api does."""
        with suppress(httpx.HTTPError):
            return self.http.get("/healthz").is_success
        return False

    def try_submit(self, toy: Toy) -> str | None:
        """A study's id; None when the api was away meanwhile, and somebody has to submit again."""
        body = {"spec": toy.spec.model_dump(mode="json"), "inputs": toy.inputs.model_dump(mode="json")}
        with suppress(httpx.HTTPError, JsmError):
            for sha, file in toy.files.items():
                upload(self.http, sha, file)
            return self.http.post("/v1/studies", json=body).raise_for_status().json()["id"]
        return None

    def study_state(self, study: str) -> str:
        """As the api says; "away" while it does not."""
        with suppress(httpx.HTTPError):
            answer = self.http.get(f"/v1/studies/{study}")
            return answer.json()["state"] if answer.is_success else "away"
        return "away"

    def heal(self) -> None:
        """Everything runs and every line works."""
        self.thaw(list(self.frozen.values()))
        for line in self.lines.values():
            line.delay_s, line.corrupt, line.corrupt_down, line.gateway = 0.0, False, False, False
            line.cut(False)
        self.down.clear()
        self.tend()

    def leave(self) -> list[str]:
        """Every worker is told to end, then everything is ended. Returns what was left running, in words."""
        begun = [worker for worker in WORKERS if worker in self.parts]
        for worker in begun:
            os.kill(self.parts[worker].pid, signal.SIGTERM)
        late = [worker for worker in begun if not _ends(self.parts[worker])]
        self.close()
        for line in self.lines.values():
            line.close()
        return [f"{worker} did not end within {LEAVE_S:.0f} s of SIGTERM" for worker in late] + self.leaked()

    def abandon(self) -> list[str]:
        """End everything at once: something is wrong, and more would say nothing."""
        self.close()
        for line in self.lines.values():
            line.close()
        return []

    def leaked(self) -> list[str]:
        """The processes of this pool that run although nothing should."""
        own = [p for p in psutil.process_iter() if p.pid != os.getpid() and _home_of(p) == str(self.home)]
        return [f"process {process.pid} still runs" for process in own]


ENDS = {"api": "api", "broker": "valkey"}
"""An end of a worker's lines → the part that listens there."""


def patience(seconds: float) -> float:
    """How long to wait for what takes at most so many seconds on a machine that has nothing else to do."""
    return seconds * max(1.0, os.getloadavg()[0] / processes.cores())


def _ends(process: processes.Process) -> bool:
    with suppress(processes.subprocess.TimeoutExpired):
        process.wait(LEAVE_S)
        return True
    return False


def _says(process: psutil.Process, word: str) -> bool:
    with suppress(psutil.Error):
        return word in process.cmdline()
    return False


def _home_of(process: psutil.Process) -> str | None:
    with suppress(psutil.Error):
        return process.environ().get("JSM_HOME") if process.status() != psutil.STATUS_ZOMBIE else None
    return None


def tended(
    pool: ChaosPool, condition: Callable[[], object], what: str, deadline: float, watch: Looks | None = None
) -> object:
    """The first true value of `condition`, while the pool is looked after and watched."""
    while not (found := condition()):
        pool.tend()
        if watch:
            watch.look()
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.1)
    return found
