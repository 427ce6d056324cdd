"""`jsm worker`: the machines of the pool."""

import os
import subprocess
import sys
import time
from pathlib import Path

from jsm_queue import processes
from jsm_queue.cli import client, console, home
from jsm_queue.settings import settings


def list_workers(as_json: bool) -> None:
    """The pool's workers."""
    with client.connect() as api:
        found = client.call(api, "GET", "/v1/workers")
    if as_json:
        console.print_json(found)
        return
    rows = [_row(worker, time.time()) for worker in found["workers"]]
    columns = {
        "worker": "left",
        "name": "left",
        "state": "left",
        "hardware": "left",
        "slots": "left",
        "busy": "right",
        "memory free": "right",
        "disk free": "right",
        "why not": "left",
    }
    console.print_table(columns, rows, "no workers yet: `jsm up` starts one, `jsm worker invite` lets others join")


def change(worker: str, what: str, as_json: bool) -> None:
    """Pause, resume, drain or remove a worker."""
    with client.connect() as api:
        changed = client.call(api, "POST", f"/v1/workers/{client.quoted(worker)}/{what}")
    if as_json:
        console.print_json(changed)
        return
    console.out.print(f"worker {changed['name']} ({changed['id'][:12]}) is {changed['state']}")


def _row(worker: dict, now: float) -> list[str]:
    reported, disk = worker["slots"], worker["disk_free"]
    hardware = (worker["hardware"] or {}).get("hardware_class", "")
    known = [worker["id"][:12], worker["name"], state(worker, now), hardware, slots(reported)]
    if not worker["live"]:  # what it said last is old
        return [*known, "", "", "", ""]
    busy = str(sum(slot["busy"] for slot in reported))
    why_not = [*holds(worker), *without_room(worker)]
    return [*known, busy, memory(reported), console.size(disk) if disk is not None else "", "; ".join(why_not)]


def state(worker: dict, now: float) -> str:
    """ "live", "paused", "draining", "away 3 min 5 s" or "draining, away 2 h"."""
    wished = [] if worker["state"] == "active" else [worker["state"]]
    if worker["live"]:
        return ", ".join(wished) or "live"
    since = worker["away_since"]
    return ", ".join([*wished, f"away {console.duration(max(0.0, now - since))}" if since else "away"])


def memory(reported: list[dict]) -> str:
    """Of the GPUs, or of the system where there is none: free of all, e.g. "14.2 GB of 16.0 GB"."""
    shown = [slot for slot in reported if slot["kind"] == "gpu"] or reported[:1]
    return ", ".join(
        console.size(slot["vram_free"]) + (f" of {console.size(slot['vram_total'])}" if slot["vram_total"] else "")
        for slot in shown
    )


def slots(reported: list[dict]) -> str:
    """ "1 GPU slot, 1 CPU slot"."""
    counts = {kind: sum(slot["kind"] == kind for slot in reported) for kind in ("gpu", "cpu")}
    return ", ".join(f"{n} {kind.upper()} slot{'s' if n > 1 else ''}" for kind, n in counts.items() if n)


def holds(worker: dict) -> list[str]:
    """Why its owner keeps slots: "cuda:0: eldenring runs", each once."""
    return list(dict.fromkeys(f"{slot['device']}: {slot['hold']}" for slot in worker["slots"] if slot["hold"]))


def without_room(worker: dict) -> list[str]:
    """Nothing, or "no room on its disk for 2 jobs"."""
    jobs = worker["without_room"]
    return [f"no room on its disk for {jobs} job{'s' if jobs > 1 else ''}"] if jobs else []


def kept(workers: list[dict]) -> list[str]:
    """Of the live workers those of which the owner keeps slots: "gamer is kept by its owner: cuda:0: on battery"."""
    return [
        f"{worker['name']} is kept by its owner: {'; '.join(found)}"
        for worker in workers
        if worker["live"] and (found := holds(worker))
    ]


def start(api: str | None, token: str | None, folder: Path | None, name: str | None) -> int:
    """Runs this machine's worker in the foreground. Returns its exit status, where this process still is.

    Raises SetupError for a folder that is none.
    """
    argv = [sys.executable, "-m", "workers", "--home", str(home.worker_folder(folder))]
    argv += ["--api", url] if (url := api or settings().api_url) else []
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
