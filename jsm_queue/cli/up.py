"""`jsm up` and `jsm down`: everything that a pool needs, on this machine, from one command.

<home>/up.lock      an SQLite file that a running `jsm up` holds locked; the system lets go when it dies
<home>/valkey/      the embedded Valkey's password; flower.password is that of Flower's own user there
<home>/tls/         certificates of `jsm up --lan`
<home>/worker/      the local worker's own folder
"""

import os
import platform
import secrets
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from jsm_queue import acl, broker, logs, processes
from jsm_queue.cli import client, console, lan
from jsm_queue.cli.home import Endpoint, home, read_endpoint, read_token, read_worker_id, write_endpoint
from jsm_queue.cli.ports import are_free, choose_ports
from jsm_queue.cli.supervisor import Part, Supervisor
from jsm_queue.cli.workers import kept, slots
from jsm_queue.errors import AuthError, SetupError
from jsm_queue.files import write_secret, write_whole
from jsm_queue.settings import Settings, settings

TICK_S = 0.5  # between two looks at the parts
TRIES = 3  # of a start whose ports are taken by others meanwhile
START_S = 60.0  # until the api answers or a worker is seen: importing takes seconds on a slow disk
DOWN_S = 30.0  # what `jsm down` waits before it kills
LAST_S = 5.0  # and for a process that has let go of everything
LOOPBACK = lan.LOOPBACK
LOOPBACK_OF = {"0.0.0.0": LOOPBACK, "::": "::1"}  # who listens on all addresses can be reached there


class Stopped(Exception):
    """`jsm down` asked this `jsm up` to end."""


@dataclass
class Pool:
    """The parts that run for one home folder, and how to reach them. `worker_env`: the local worker's own settings."""

    home: Path
    supervisor: Supervisor
    env: Mapping[str, str]
    ports: Mapping[str, int]
    api_url: str
    token: str
    flower_url: str | None = None
    opened: lan.Lan | None = None
    embedded: bool = False
    worker_env: Mapping[str, str] = field(default_factory=dict)

    def tick(self) -> None:
        """Look after the parts. Raises Stopped after `jsm down`."""
        self.supervisor.tick()
        if (self.home / "stop").exists():
            raise Stopped

    def connect(self) -> httpx.Client:
        """A client for this pool's api."""
        return client.client(self.api_url, self.token)

    def start_rest(self, worker: bool = True) -> None:
        """Start worker and Flower, where they do not run yet."""
        started = {part.name for part in self.supervisor.parts}
        if worker and "worker" not in started:
            self.start_worker()
        if "flower" not in started:
            self.start_flower()

    def start_worker(self) -> None:
        """Start the local worker. It joins anew where the pool does not know it any more."""
        argv = [sys.executable, "-m", "workers", "--home", str(self.home / "worker"), "--api", self.api_url]
        argv += ["--name", (platform.node() or "local")[:64]]
        log = self.supervisor.logs / "worker.log"

        def start() -> processes.Process:
            ended = [part.process.poll() for part in self.supervisor.parts if part.name == "worker"]
            # Every user of this machine can read a command line, but not another's environment.
            invite = self.invite() if ended in ([], [AuthError.exit_code]) else {}
            return processes.spawn(argv, log, env={**self.env, **self.worker_env, **invite})

        self.supervisor.start("worker", start)

    def invite(self) -> dict[str, str]:
        """What lets the local worker join, as a variable; nothing where the store knows it already."""
        with self.connect() as api:
            known = {worker["id"] for worker in client.call(api, "GET", "/v1/workers")["workers"]}
            if read_worker_id(self.home) in known:
                return {}
            invite = client.call(api, "POST", "/v1/workers/invites")["invite"]
            return {"JSM_INVITE": self.opened.code(invite) if self.opened else invite}

    def start_flower(self) -> None:
        """Start Flower, which only watches: read-only, on loopback, without a task history on disk."""
        port = self.ports["flower"]
        # At a queue of ours it has a user that can change no worker's messages.
        own = {"JSM_BROKER_URL": flower_broker(self.home, self.env["JSM_BROKER_URL"])} if self.embedded else {}
        argv = [sys.executable, "-m", "celery", "-A", "jsm_queue.monitor", "flower", f"--address={LOOPBACK}"]
        argv += [f"--port={port}", "--enable_events=False", "--read_only=True", "--max_tasks=20000"]
        self._start("flower", [*argv, "--tasks_columns=name,args,kwargs,state,received,runtime,worker"], own)
        self.flower_url = f"http://{LOOPBACK}:{port}"
        write_endpoint(self.home, Endpoint(self.api_url, self.flower_url, os.getpid()))

    def start_api(self) -> None:
        """Start the api and wait until it answers."""
        part = self._start("api", [sys.executable, "-m", "api"])
        self.supervisor.wait_until(part, self._answers, START_S)
        write_endpoint(self.home, Endpoint(self.api_url, None, os.getpid()))

    def _answers(self) -> bool:
        """Whether this pool's api does: another's, which took the port a moment ago, does not know our token."""
        if not is_healthy(self.api_url):
            return False
        with suppress(httpx.HTTPError), self.connect() as api:
            return api.get("/v1/workers").status_code != AuthError.status
        return False

    def start_valkey(self) -> None:
        """Start the embedded Valkey, on a port that its clients keep across its restarts."""
        log, folder, port = self.supervisor.logs / "valkey.log", self.home / "valkey", self.ports["valkey"]
        self.supervisor.start("valkey", lambda: broker.start_valkey(folder, port, log))

    def start_proxy(self, opened: lan.Lan) -> None:
        """Start the TLS proxy before the queue and wait until it listens."""
        part = self._start("proxy", opened.proxy(self.ports, self.env["JSM_BROKER_URL"]))
        self.supervisor.wait_until(part, lambda: listens(opened.local, self.ports["broker"]), START_S)

    def _start(self, name: str, argv: list[str], extra: Mapping[str, str] | None = None) -> Part:
        log, env = self.supervisor.logs / f"{name}.log", {**self.env, **(extra or {})}
        return self.supervisor.start(name, lambda: processes.spawn(argv, log, env=env))


def run(to_lan: bool = False, host: str | None = None, worker: bool = True) -> None:
    """`jsm up`: start everything and look after it until Ctrl-C, SIGTERM or `jsm down`.

    `to_lan`: other machines may join, and find this one at `host`; `worker`: this machine works too.
    """
    if host and not to_lan:
        raise SetupError("--host says where other machines find this one", "Use it with --lan")
    try:
        with running(home(), to_lan, host) as pool:
            pool.start_rest(worker)
            tell(pool)
            stay(pool)
    except KeyboardInterrupt:
        console.out.print("stopped; `jsm up` goes on where it was")


def tell(pool: Pool) -> None:
    """Where everything is."""
    console.out.print(f"api     {pool.api_url}   (paths: {pool.api_url}/docs)")
    if pool.flower_url:
        console.out.print(f"Flower  {pool.flower_url}")
    if pool.opened:
        told = [pool.env["JSM_PUBLIC_URL"], pool.env.get("JSM_BROKER_PUBLIC_URL", "the queue is your own")]
        console.out.print(f"LAN     {told[0]} · {told[1]}   (open these ports in the firewall)")
        console.out.print(f"        fingerprint {pool.opened.marks.fingerprint}   (jsm worker invite)")
    console.out.print(f"home    {pool.home}   (store, artifacts, token, logs)")
    console.out.print("Next    jsm init · jsm submit STUDY.yaml --watch · jsm down (or Ctrl-C)")


def stay(pool: Pool) -> None:
    """Look after the parts until someone stops us."""
    while True:
        pool.tick()
        time.sleep(TICK_S)


@contextmanager
def running(folder: Path, to_lan: bool = False, host: str | None = None) -> Iterator[Pool]:
    """Store, queue and api of a home folder, ended when the block is left, also by Ctrl-C, SIGTERM or `jsm down`.

    `to_lan`: other machines may join, and find this one at `host`.
    Raises SetupError when the home folder is in use or a part does not come up.
    """
    config = settings()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # it holds tokens and data
    with locked(folder), signals(signal.default_int_handler):
        (folder / "stop").unlink(missing_ok=True)
        (folder / "logs").mkdir(exist_ok=True)
        logs.set_up(config.log_format, config.log_level, folder / "logs" / "up.log")
        supervisor = Supervisor(folder, lambda line: console.err.print(f"[yellow]{console.escape(line)}[/]"))
        supervisor.end_leftovers()
        try:
            yield _start(config, folder, supervisor, lan.opened(config, folder, host) if to_lan else None)
        except Stopped:
            console.out.print("stopped by `jsm down`")
        finally:
            with signals(signal.SIG_IGN):  # a second Ctrl-C leaves no process behind
                (folder / "endpoint.json").unlink(missing_ok=True)
                supervisor.stop()


def _start(config: Settings, folder: Path, supervisor: Supervisor, opened: lan.Lan | None) -> Pool:
    """On other ports where another program took one of them just before we did."""
    tries = 0
    while True:
        ports = choose_ports(config, folder, opened)
        try:
            return _start_on(ports, config, folder, supervisor, opened)
        except SetupError:
            supervisor.stop()
            tries += 1
            if tries == TRIES or are_free(ports, config, opened):
                raise


def _start_on(
    ports: Mapping[str, int], config: Settings, folder: Path, supervisor: Supervisor, opened: lan.Lan | None
) -> Pool:
    embedded = config.broker_url is None
    broker_url = config.broker_url or broker.valkey_url(folder / "valkey", ports["valkey"])
    env = {
        "JSM_HOME": str(folder),
        "JSM_API_PORT": str(ports["api"]),
        "JSM_BROKER_URL": broker_url,
        "JSM_DATABASE_URL": config.store_url,
    }
    url = f"http://{url_host(config.host)}:{ports['api']}"
    if opened:
        env |= opened.environment(ports, broker_url)
        url = f"https://{lan.url_host(opened.local)}:{ports['api']}"
    token = admin_token(config, folder)
    pool = Pool(folder, supervisor, env, ports, url, token, opened=opened, embedded=embedded)
    if opened is None and "hub" not in config.model_fields_set:
        pool.worker_env = {"JSM_HUB": "direct"}  # through the api each base would lie on this disk twice
    (folder / "flower.password").unlink(missing_ok=True)
    if embedded:
        write_secret(folder / "flower.password", secrets.token_urlsafe(32))
        pool.start_valkey()
    if opened and lan.is_plain(broker_url):
        pool.start_proxy(opened)
    pool.start_api()
    store = "SQLite" if config.store_url.startswith("sqlite") else config.store_url.partition(":")[0]
    console.out.print(
        f"store {store} · queue {'Valkey' if embedded else 'your broker'} · log files in {supervisor.logs}"
    )
    return pool


def url_host(host: str) -> str:
    """Where this machine reaches what listens on `host`, as a URL has it."""
    reachable = LOOPBACK_OF.get(host, host)
    return f"[{reachable}]" if ":" in reachable else reachable


def flower_broker(folder: Path, broker_url: str) -> str:
    """The queue's URL as Flower's own user."""
    password = (folder / "flower.password").read_text(encoding="utf-8").strip()
    return acl.with_credentials(broker_url, acl.FLOWER, password)


def listens(host: str, port: int) -> bool:
    """Does anybody take connections there?"""
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the home folder. Raises SetupError when another `jsm up` or `jsm demo` does."""
    try:
        lock = sqlite3.connect(folder / "up.lock", timeout=0, isolation_level=None)
    except sqlite3.OperationalError as error:
        raise SetupError(f"{folder} cannot be used ({error})", "Check that it is a writable folder of yours") from error
    with closing(lock):
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            endpoint = read_endpoint(folder)
            where = f" at {endpoint.api} (process {endpoint.pid})" if endpoint else ""
            raise SetupError(
                f"{folder} is in use: jsm runs there already{where}", "Use it, or `jsm down` first"
            ) from error
        yield


@contextmanager
def signals(handler: Any) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal all do the same for a while; `nohup` still works."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def admin_token(config: Settings, folder: Path) -> str:
    """The home folder's admin token; a new one where there is none that the store knows."""
    # These import the database layer, which no other command needs.
    from jsm_queue.store.database import open_store, reading
    from jsm_queue.store.tokens import create_token, find_token

    engine = open_store(config.store_url)
    try:
        token = read_token(folder)
        with reading(engine) as session:
            known = token is not None and find_token(session, token, "admin", time.time()) is not None
        if not known or token is None:
            token = create_token(engine, "admin")
            write_secret(folder / "admin.token", token)
        return token
    finally:
        engine.dispose()


def is_healthy(url: str) -> bool:
    """Does the api answer?"""
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/healthz", timeout=2, verify=client.trust(url), trust_env=False).is_success
    return False


def wait_for_worker(pool: Pool, note: Callable[[str], None]) -> None:
    """Waits until the local worker has said what it has. Raises SetupError when it does not come."""
    part = next(part for part in pool.supervisor.parts if part.name == "worker")
    found: list[dict] = []

    def seen() -> bool:
        with pool.connect() as api:
            found[:] = [worker for worker in client.call(api, "GET", "/v1/workers")["workers"] if worker["live"]]
        return bool(found)

    pool.supervisor.wait_until(part, seen, START_S)
    note(" · ".join(f"worker {worker['name']}: {slots(worker['slots'])}" for worker in found))
    for line in kept(found):
        note(line)


def down() -> None:
    """`jsm down`: ask the home folder's `jsm up` to end, and wait until it has. Raises SetupError when none runs."""
    folder = home()
    if not is_locked(folder):
        raise SetupError(f"No `jsm up` runs on {folder}", "Check JSM_HOME")
    endpoint = read_endpoint(folder)
    write_whole(folder / "stop", "")
    deadline = time.monotonic() + DOWN_S
    while is_locked(folder):
        if time.monotonic() > deadline:
            if endpoint:
                processes.kill_tree(endpoint.pid)
            break
        time.sleep(0.1)
    if endpoint:  # it let go of the folder, and is on its last instructions
        with suppress(psutil.Error):
            psutil.Process(endpoint.pid).wait(LAST_S)
    (folder / "stop").unlink(missing_ok=True)
    console.out.print("stopped")


def is_locked(folder: Path) -> bool:
    """Does a `jsm up` or `jsm demo` run on this home folder?"""
    if not folder.is_dir():
        return False
    try:
        with locked(folder):
            return False
    except SetupError:
        return True
