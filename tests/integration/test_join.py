"""A second machine joins: a fresh environment that knows nothing but the line of `jsm worker invite`, over TLS.

The package index is played by this environment's packages: a `python3` on the path makes virtual environments that see
them. jsm-queue itself comes from the pool.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlmodel import select

from jsm_queue import processes, tls
from jsm_queue.cli.home import read_endpoint
from jsm_queue.cli.up import is_healthy
from jsm_queue.settings import Settings
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, writing
from jsm_queue.store.tokens import token_hash
from tests.pairs import pair_lines
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform == "win32", reason="the line for sh"),
]
ROOT = Path(__file__).resolve().parents[2]
PYTHON3 = """#!/bin/sh
'{python}' "$@" || exit
if [ "$1 $2" = "-m venv" ]; then
    cd "$3/lib/python{version}/site-packages"
    echo '{packages}' > index.pth
    rm -rf setuptools setuptools-*  # an old one that venv brings in some versions
fi
"""


class Server:
    """`jsm serve` on 127.0.0.1, as another machine would be."""

    def __init__(self, home: Path) -> None:
        self.home = home
        clean = {name: value for name, value in os.environ.items() if not name.startswith("JSM_")}
        self.env = clean | {"JSM_HOME": str(home), "JSM_LEASE_S": "5", "JSM_HEARTBEAT_S": "1", "JSM_OFFER_S": "5"}
        argv = [sys.executable, "-m", "jsm_queue.cli", "serve", "--host", "127.0.0.1"]
        self.log = home.parent / "serve.log"
        with self.log.open("wb") as said:
            self.process = subprocess.Popen(argv, env=self.env, cwd=ROOT, stdout=said, stderr=said)
        wait_for(self.is_up, "jsm serve")
        endpoint = read_endpoint(home)
        assert endpoint
        token = (home / "admin.token").read_text(encoding="utf-8")
        self.http = httpx.Client(
            base_url=endpoint.api,
            headers={"Authorization": f"Bearer {token}"},
            verify=tls.client_context(tls.read_ca(home / "tls" / "ca.pem")),
            trust_env=False,
        )

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
        endpoint = read_endpoint(self.home)
        return endpoint is not None and endpoint.flower is not None

    def jsm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "jsm_queue.cli", *arguments]
        return subprocess.run(argv, env=self.env, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)

    def json(self, *arguments: str) -> Any:
        done = self.jsm(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def pid(self, part: str) -> int:
        return json.loads((self.home / "run" / f"{part}.pid").read_text(encoding="utf-8"))["pid"]

    def gets_a_result(self, folder: Path, name: str) -> None:
        """A worker does the first job of a study, which is cheap; another name means other data."""
        base = ROOT / "examples" / "river" / "bases" / "river-qwen2"
        (folder / f"{name}.jsonl").write_text(pair_lines(60 + len(name)), encoding="utf-8")
        (folder / f"{name}.yaml").write_text(
            f"name: {name}\ndata: {{source: {name}.jsonl, validation: 10, test_unseen: 10}}\n"
            f"bases: [{{name: b, source: '{base.as_posix()}'}}]\nstages: {{bases: {{n: 5}}, quantization: null}}\n"
            "decoding: {context: 512, max_new_tokens: 16}\n",
            encoding="utf-8",
        )
        study = self.json("submit", str(folder / f"{name}.yaml"))["id"]
        wait_for(lambda: self.prepared(study), f"a result of study {name}")
        self.http.delete(f"/v1/studies/{study}").raise_for_status()

    def workers(self) -> list[dict[str, Any]]:
        return self.http.get("/v1/workers").raise_for_status().json()["workers"]

    def prepared(self, study: str) -> bool:
        jobs = self.http.get(f"/v1/studies/{study}/jobs").raise_for_status().json()["jobs"]
        return any(job["kind"] == "prepare" and job["state"] == "done" for job in jobs)


@dataclass
class Machine:
    """Another machine: its own home, none of our variables, and whatever is pasted there."""

    root: Path

    def paste(self, line: str, *options: str) -> processes.Process:
        """Runs a line as a user's shell does; what it says is in `log`."""
        self.root.mkdir(exist_ok=True)
        tools = self.root / "bin"
        tools.mkdir(exist_ok=True)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        program = PYTHON3.format(python=sys.executable, packages=sysconfig.get_path("purelib"), version=version)
        (tools / "python3").write_text(program, encoding="utf-8")
        (tools / "python3").chmod(0o755)
        extra = f" -s -- {shlex.join(options)}" if options else ""
        env = {"HOME": str(self.root), "PATH": f"{tools}:/usr/bin:/bin", "PIP_NO_INDEX": "1"}
        with self.log.open("ab") as said:
            return subprocess.Popen(
                ["sh", "-c", line + extra],
                env=env | {"OMP_NUM_THREADS": "1"},
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def fails(self, line: str, *options: str) -> str:
        """What a line says that does not install anything."""
        process = self.paste(line, *options)
        process.wait(60)
        said = self.log.read_text(encoding="utf-8")
        assert not (self.root / ".local" / "share" / "jsm-worker" / "venv").exists(), said
        assert "Traceback" not in said
        return said

    @property
    def log(self) -> Path:
        return self.root / "said.log"

    @property
    def folder(self) -> Path:
        return self.root / ".local" / "share" / "jsm-worker"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("pool") / "home")
    yield server
    server.http.close()
    server.process.terminate()
    server.process.wait(40)


@pytest.fixture(scope="module")
def machine(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that has joined."""
    machine = Machine(tmp_path_factory.mktemp("second") / "pc")
    process = machine.paste(server.json("worker", "invite")["sh"], "--name", "second pc")

    def joined() -> bool:
        assert process.poll() is None, machine.log.read_text(encoding="utf-8")
        return any(worker["live"] for worker in server.workers())

    try:
        wait_for(joined, f"the worker; see {machine.log}", 400)
        yield machine
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            processes.kill_tree(process.pid)


def test_the_pasted_line_makes_a_worker_that_works(server: Server, machine: Machine, tmp_path: Path) -> None:
    [worker] = server.json("worker", "list")["workers"]
    assert worker["name"] == "second pc" and worker["live"]
    server.gets_a_result(tmp_path, "first")
    looked, works = machine.log.read_text(encoding="utf-8").split("working; Ctrl-C", 1)
    for what in ("slot 0", "kind train", "torch", "disk", "api", "clock"):
        assert f"\nok       {what} " in looked, looked
    assert ": hello, slots" in works
    assert (machine.folder / "venv").is_dir()
    [package] = (machine.folder / "venv").glob("lib/*/site-packages/jsm_queue")
    assert (package / "__init__.py").read_bytes() == (ROOT / "jsm_queue" / "__init__.py").read_bytes()


def _argv(process: psutil.Process) -> list[str]:
    with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):  # it ended a moment ago
        return process.cmdline()
    return []


def test_its_secrets_are_its_owners_and_in_no_argument(server: Server, machine: Machine) -> None:
    identity = machine.folder / "worker" / "identity.json"
    kept = json.loads(identity.read_text(encoding="utf-8"))
    assert identity.stat().st_mode & 0o077 == 0
    assert kept["ca"] == (server.home / "tls" / "ca.pem").read_text(encoding="utf-8")
    store = open_store(Settings(home=server.home).store_url)
    with store.connect() as connection:
        [row] = connection.execute(select(t.Worker)).all()
    store.dispose()
    assert kept["broker_secret"] not in str(row)
    agent = processes.find_leftover(machine.folder / "worker" / "agent.pid")
    assert agent
    shown = " ".join(argument for process in [agent, *agent.children(recursive=True)] for argument in _argv(process))
    for secret in (kept["token"], kept["broker_secret"]):
        assert secret not in shown
        assert secret not in machine.log.read_text(encoding="utf-8")


def test_it_speaks_to_the_proxy_and_not_to_the_queue(server: Server, machine: Machine) -> None:
    ports = json.loads((server.home / "ports.json").read_text(encoding="utf-8"))
    agent = processes.find_leftover(machine.folder / "worker" / "agent.pid")
    assert agent
    remote = {c.raddr.port for c in agent.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED}
    assert ports["broker"] in remote
    assert ports["valkey"] not in remote


def test_it_goes_on_after_the_queue_forgot_everything(server: Server, machine: Machine, tmp_path: Path) -> None:
    before = server.pid("valkey")
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: server.pid("valkey") != before, "another Valkey")
    server.gets_a_result(tmp_path, "second")


def test_it_goes_on_after_the_proxy_was_killed(server: Server, machine: Machine, tmp_path: Path) -> None:
    before = server.pid("proxy")
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: server.pid("proxy") != before, "another proxy")
    server.gets_a_result(tmp_path, "the-third")


def test_a_used_and_an_expired_invite_are_refused_with_what_to_do(server: Server, tmp_path: Path) -> None:
    used, expired = (server.json("worker", "invite") for _ in range(2))
    store = open_store(Settings(home=server.home).store_url)
    with writing(store) as session:
        session.get_one(t.Token, token_hash(used["invite"].split(".")[0])).used_at = 1.0
        session.get_one(t.Token, token_hash(expired["invite"].split(".")[0])).expires_at = 1.0
    store.dispose()
    for number, told in enumerate((used, expired)):
        said = Machine(tmp_path / f"pc{number}").fails(told["sh"])
        assert "the invite is unknown, used or expired: `jsm worker invite` makes a new one" in said


def test_a_server_with_another_key_hears_nothing(server: Server, tmp_path: Path) -> None:
    told = server.json("worker", "invite")
    line, fingerprint = told["sh"], told["fingerprint"]
    other = fingerprint[::-1]
    pin = line.split("'")[1]
    said = Machine(tmp_path / "first").fails(line.replace(pin, "sha256//" + "A" * 43 + "="))
    assert "public key does not match pinned public key" in said
    said = Machine(tmp_path / "second").fails(line.replace(f".{fingerprint}", f".{other}"))
    assert "has another key than the invite says: nothing was sent" in said
    agent = subprocess.run(
        [sys.executable, "-m", "workers", "--home", str(tmp_path / "agent"), "--api", told["api"]],
        env={**server.env, "JSM_HOME": str(tmp_path), "JSM_INVITE": told["invite"].replace(fingerprint, other)},
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert agent.returncode == 5
    assert "has another key than the invite says" in agent.stderr and "Traceback" not in agent.stderr
    assert not (tmp_path / "agent" / "identity.json").exists()


def test_options_and_what_is_missing_are_told(server: Server, tmp_path: Path) -> None:
    line = server.json("worker", "invite")["sh"]
    assert "--nonsense is no option" in Machine(tmp_path / "a").fails(line, "--nonsense")
    said = Machine(tmp_path / "b").fails(line, "--python", "no-such-python")
    assert "Python 3.11 or newer with venv is missing" in said
    assert "has no TLS: nothing is sent" in Machine(tmp_path / "c").fails(
        line.replace("JSM_API_URL=https://127.0.0.1", "JSM_API_URL=http://192.0.2.7")
    )


def test_only_what_is_meant_to_be_open_listens_beyond_loopback(server: Server) -> None:
    said = server.log.read_text(encoding="utf-8")
    assert "fingerprint" in said and "rediss://127.0.0.1:" in said
    endpoint = read_endpoint(server.home)
    assert endpoint and endpoint.api.startswith("https://")
    assert not is_healthy(endpoint.api.replace("https:", "http:"))
    assert not (server.home / "run" / "worker.pid").exists(), "`jsm serve` has no worker of its own"
