"""`jsm worker`: the machines of the pool."""

import os
import subprocess
import sys
from pathlib import Path

from jsm_queue import processes
from jsm_queue.cli import client, console
from jsm_queue.errors import SetupError
from jsm_queue.settings import settings


def list_workers(as_json: bool) -> None:
    """The pool's workers."""
    with client.connect() as api:
        found = client.call(api, "GET", "/v1/workers")
    if as_json:
        console.print_json(found)
        return
    rows = []
    for worker in found["workers"]:
        state = "live" if worker["live"] else "away"
        hardware = (worker["hardware"] or {}).get("hardware_class", "")
        busy = sum(not slot["free"] for slot in worker["slots"])
        rows.append([worker["id"][:12], worker["name"], state, hardware, slots(worker["slots"]), str(busy)])
    columns = {
        "worker": "left",
        "name": "left",
        "state": "left",
        "hardware": "left",
        "slots": "left",
        "busy": "right",
    }
    console.print_table(columns, rows, "no workers yet: `jsm up` starts one, `jsm worker invite` lets others join")


def slots(reported: list[dict]) -> str:
    """ "1 GPU slot, 1 CPU slot"."""
    counts = {kind: sum(slot["kind"] == kind for slot in reported) for kind in ("gpu", "cpu")}
    return ", ".join(f"{n} {kind.upper()} slot{'s' if n > 1 else ''}" for kind, n in counts.items() if n)


def invite(as_json: bool) -> None:
    """A token with which one machine may join."""
    with client.connect() as api:
        url = str(api.base_url).rstrip("/")
        token = client.call(api, "POST", "/v1/workers/invites")["invite"]
    if as_json:
        console.print_json({"invite": token, "api": url})
        return
    console.out.print("On the other machine, within an hour, once:")
    console.out.print(f"  jsm worker start --api {url} --invite {token}")


def start(api: str | None, token: str | None, folder: Path | None, name: str | None) -> int:
    """Runs this machine's worker in the foreground. Returns its exit status, where this process still is."""
    url = api or settings().api_url
    if url is None:
        raise SetupError("Which api shall this worker join?", "Give --api URL, or set JSM_API_URL")
    where = folder or settings().home / "worker"
    argv = [sys.executable, "-m", "workers.agent", "--home", str(where.resolve()), "--api", url]
    argv += ["--name", name] if name else []
    # Every user of this machine can read a command line, but not another's environment.
    return become(argv, os.environ | ({"JSM_INVITE": token} if token else {}))


def become(argv: list[str], env: dict[str, str]) -> int:
    """Go on as another program, so that what ends this process ends that one.

    Windows has no such call: there a child runs, which ends when its standard input does, and we wait for its status.
    """
    if os.name == "posix":
        os.execve(argv[0], argv, env)
    with subprocess.Popen(argv, env=env | {processes.LIFELINE: "1"}, stdin=subprocess.PIPE) as child:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue  # the terminal told the child too; it ends by itself
