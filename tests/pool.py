"""A whole pool for tests: real Valkey, api, agents and runners as processes, in a home folder of its own.

The study is small and cheap, with every kind of job: two tiny random bases, two sizes, one seed, two formats.
"""

import json
import os
import random
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import httpx

from jsm_queue import broker, processes
from jsm_queue.cli.client import upload
from jsm_queue.cli.resolve import resolve
from jsm_queue.settings import Settings
from jsm_queue.spec import StudySpec, parse_spec
from jsm_queue.store.database import open_store
from jsm_queue.store.tokens import create_token
from tests.ports import quiet_port
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[1]
FACILITIES = (
    "堤防",
    "護岸",
    "水門",
    "樋門",
    "堰",
    "ダム",
    "床止め",
    "砂防堰堤",
    "排水機場",
    "遊水地",
    "導流堤",
    "水制",
)
ASPECTS = {"目的": "守る", "点検": "調べる", "設計": "定める", "材料": "選ぶ", "管理者": "担う"}
STUDY: dict[str, Any] = {
    "name": "small",
    "data": {"source": "pairs.jsonl", "validation": 10, "test_taught": 5, "test_unseen": 5},
    "bases": [{"name": "a", "source": "./a"}, {"name": "b", "source": "./b"}],
    "training": {"epochs": 1, "batch": 8, "max_length": 128, "quantized": False, "r": 4},
    "decoding": {"max_new_tokens": 4, "context": 256},
    "stages": {
        "scale": {"base": "a", "sizes": [8, 16], "seeds": [1]},
        "bases": {"seeds": [1]},
        "quantization": {"formats": ["F16", "Q8_0"]},
    },
}


SHORT: dict[str, Any] = {
    "bases": STUDY["bases"][:1],
    "stages": {"bases": {"n": 8, "seeds": [1]}, "quantization": None},
}
"""Changes that leave one stage with one base: still every kind of job."""


def write_study(folder: Path, **changes: Any) -> StudySpec:
    """The small study's files, in `folder`; and its spec."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [
        {"question": f"{facility}の{aspect}は何ですか。", "answer": f"{facility}の{aspect}は{number}番で{verb}。"}
        | {"key_facts": [f"{number}番"], "category": aspect}
        for facility in FACILITIES
        for aspect, verb in ASPECTS.items()
        for number in [random.Random(facility + aspect).randrange(1000)]
    ]
    lines = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
    (folder / "pairs.jsonl").write_text(lines, encoding="utf-8")
    if not (folder / "b").exists():
        from workers.gguf import tiny  # here, as importing torch takes seconds that not every test needs

        tiny.save_base(folder / "a", "qwen2")
        tiny.save_base(folder / "b", "llama")
    return parse_spec(STUDY | changes)


class Pool:
    """The processes of a pool; each can be killed and started again."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self.ports = {"valkey": quiet_port(), "api": quiet_port()}
        self.url = f"http://127.0.0.1:{self.ports['api']}"
        self.environment = {
            "JSM_HOME": str(home),
            "JSM_API_PORT": str(self.ports["api"]),
            "JSM_BROKER_URL": broker.valkey_url(home / "valkey", self.ports["valkey"]),
            "JSM_CPU_SLOTS": "1",
            "JSM_COURTESY": "no",
            "JSM_LEASE_S": "4",
            "JSM_HEARTBEAT_S": "1",
            "JSM_OFFER_S": "5",
            "JSM_TICK_S": "0.2",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            **settings,
        }
        self.store = open_store(Settings(home=home, database_url=settings.get("JSM_DATABASE_URL")).store_url)
        self.token = create_token(self.store, "admin")
        self.parts: dict[str, processes.Process] = {}
        self.invite = create_token(self.store, "invite")
        self.http = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=30, trust_env=False
        )

    # ---- processes ----

    def start(self, name: str, argv: list[str], **environment: str) -> processes.Process:
        """Start a part; its output is in `<home>/<name>.log`."""
        log = self.home / f"{name}.log"
        self.parts[name] = processes.spawn([sys.executable, *argv], log, self.environment | environment)
        return self.parts[name]

    def start_valkey(self) -> None:
        """On the same port and with the same password every time."""
        self.parts["valkey"] = broker.start_valkey(self.home / "valkey", self.ports["valkey"])

    def start_api(self, **environment: str) -> processes.Process:
        """Start the api; does not wait until it answers."""
        return self.start("api", ["-m", "api"], **environment)

    def start_agent(self, name: str = "agent", **environment: str) -> processes.Process:
        """Start an agent with a home folder of its own name."""
        arguments = ["--home", str(self.home / name), "--api", self.url, "--name", name]
        if not (self.home / name / "identity.json").exists():
            arguments += ["--invite", self.invite]
        return self.start(name, ["-m", "workers", *arguments], **environment)

    def start_core(self) -> None:
        """Valkey and the api; waits for it."""
        self.start_valkey()
        self.start_api()
        self.wait_healthy()

    def start_all(self) -> None:
        """Valkey, the api and one agent."""
        self.start_core()
        self.start_agent()

    def kill(self, name: str) -> None:
        """As `kill -9` does."""
        process = self.parts.pop(name)
        process.kill()
        process.wait()

    def close(self) -> None:
        """End everything at once."""
        for process in self.parts.values():
            processes.kill_tree(process.pid)
            process.wait()
        self.http.close()
        self.store.dispose()

    def log(self, name: str) -> str:
        """What a part has said so far."""
        return (self.home / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    # ---- what can be seen from outside ----

    def wait_healthy(self) -> None:
        """Until the api answers."""

        def healthy() -> bool:
            try:
                return httpx.get(f"{self.url}/healthz", trust_env=False).is_success
            except httpx.TransportError:
                return False

        wait_for(healthy, "the api")

    def ask(self, path: str, **params: str | int) -> Any:
        """GET, as JSON."""
        response = self.http.get(f"/v1{path}", params=params)
        assert response.is_success, response.text
        return response.json()

    def submit(self, spec: StudySpec, folder: Path) -> str:
        """Upload and submit; returns the study's id."""
        resolved = resolve(spec, folder)
        for sha, file in resolved.files.items():
            upload(self.http, sha, file)
        body = {"spec": spec.model_dump(mode="json"), "inputs": resolved.inputs.model_dump(mode="json")}
        response = self.http.post("/v1/studies", json=body)
        assert response.is_success, response.text
        return response.json()["id"]

    def state(self, study: str) -> str:
        """The study's state; "away" while the api does not answer."""
        try:
            return self.ask(f"/studies/{study}")["state"]
        except httpx.TransportError:
            return "away"

    def jobs(self, study: str) -> list[dict[str, Any]]:
        """The study's jobs, by id."""
        return sorted(self.ask(f"/studies/{study}/jobs")["jobs"], key=lambda job: job["id"])

    def wait_ended(self, study: str, seconds: float = 380) -> None:
        """Until the study ends."""
        wait_for(lambda: self.state(study) == "ended", f"the study's end; agent: {self.home}", seconds)

    def outcome(self, study: str) -> dict[str, Any]:
        """What must not depend on any crash: the jobs with their states, and the verdicts' decisions."""
        verdicts = self.ask(f"/studies/{study}/verdicts")["verdicts"]
        return {
            "jobs": [(job["id"], job["kind"], job["state"]) for job in self.jobs(study)],
            "decisions": {verdict["stage"]: verdict["decision"] for verdict in verdicts},
        }

    def records(self, study: str) -> list[tuple[Any, ...]]:
        """All records but timings, in order."""
        rows: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            page = self.ask(f"/studies/{study}/records", after=after)
            rows, after = rows + page["records"], page["next"]
        timings = {"seconds", "ttft", "tokens_per_second"}
        return sorted((r["job"], r["item"], r["name"], r["value"]) for r in rows if r["name"] not in timings)


def crash_at(points: Collection[str], folder: Path) -> dict[str, str]:
    """Environment of processes that die once at each of those points; `folder` then holds each one's `marker`."""
    folder.mkdir(parents=True, exist_ok=True)
    return {"JSM_CRASH_AT": ";".join(points), "JSM_CRASH_ONCE": str(folder)}
