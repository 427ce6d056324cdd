"""`jsm worker yield` and `jsm worker doctor`: on the gaming PC itself. They need neither network nor api."""

import re
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from jsm_queue import processes, yielding
from jsm_queue.cli import console, doctor, workerchecks
from jsm_queue.cli.home import worker_folder
from jsm_queue.errors import RequestError, SetupError

GIVEN_S = 15.0  # until the worker must have given the machine back
LOOK_S = 0.05
DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s)?")
UNITS = (86_400, 3600, 60, 1)


def give_back(period: str | None, end: bool, home: Path | None, as_json: bool) -> int:
    """Returns the exit status: 1 when the worker has not given the machine back in time.

    Raises SetupError, and RequestError for a wrong period.
    """
    if end and period is not None:
        raise RequestError("--end and --for contradict each other", "Give one of them")
    folder = worker_home(home)
    if end:
        _tell(
            "the worker may work again" if yielding.end(folder) else "it was not told to give way", as_json, ended=True
        )
        return 0
    seconds = None if period is None else duration(period)
    began = time.monotonic()
    asked = yielding.ask(folder, seconds)
    until = (
        f"until {datetime.fromtimestamp(asked.until):%Y-%m-%d %H:%M}"
        if asked.until
        else "until `jsm worker yield --end`"
    )
    if processes.find_leftover(folder / "agent.pid") is None:
        _tell(f"no worker runs here now; one that starts does nothing {until}", as_json, until=asked.until, given=True)
        return 0
    given = _wait_given(folder)
    took = time.monotonic() - began
    words = f"given back after {took:.1f} s" if given else f"not given back within {took:.0f} s; see the worker's log"
    _tell(f"{words}, {until}", as_json, until=asked.until, given=given, seconds=round(took, 3))
    return 0 if given else 1


def _wait_given(folder: Path) -> bool:
    """Until every slot stands back and no runner is left."""
    deadline = time.monotonic() + GIVEN_S
    while time.monotonic() < deadline:
        slots = yielding.noted(folder).values()
        if slots and all(slot.get("wish") == "release" for slot in slots) and not any(folder.glob("slots/*.pid")):
            return True
        time.sleep(LOOK_S)
    return False


def _tell(words: str, as_json: bool, **figures: object) -> None:
    if as_json:
        console.print_json(figures)
    else:
        console.out.print(words)


def worker_home(given: Path | None) -> Path:
    """The worker's own folder. Raises SetupError where none has ever been."""
    folder = worker_folder(given)
    if not folder.is_dir():
        raise SetupError(f"{folder} is no worker's folder", "Give --home DIR, or run it where JSM_HOME is the worker's")
    return folder


def duration(text: str) -> float:
    """ "2h", "90m", "1h30m", "45s", "1d" as seconds. Raises RequestError."""
    found = DURATION.fullmatch(text.strip().lower())
    seconds = (
        sum(int(number) * unit for number, unit in zip(found.groups(), UNITS, strict=True) if number) if found else 0
    )
    if not 0 < seconds <= yielding.LONGEST_S:
        raise RequestError(f"{text!r} is no duration", "Write it like 2h, 90m or 1h30m; ten years at most")
    return float(seconds)


def examine(home: Path | None, as_json: bool) -> int:
    """Prints what this machine can do for a pool. Returns the exit status: 3 when something is a problem.

    Raises SetupError for a folder that is none.
    """
    folder = worker_folder(home)
    found = [*workerchecks.machine(doctor.probe("machine", str(folder))), *doctor.worker(folder)]
    problems = sum(check.state == "problem" for check in found)
    if as_json:
        console.print_json({"checks": [asdict(check) for check in found], "problems": problems})
    else:
        doctor.show(found)
    return SetupError.exit_code if problems else 0
