"""`python -m tests.chaos.hunt [BUG …] --jobs 3`: each bug is planted into a short chaos run, which must find it.

The bugs are the foundation's (`tests/lifecycle/planted.py`) and the protocol's (`apibugs.py`, `bugs.py`). A run ends
with the first thing that is wrong; a bug that one seed does not show is tried with the next. The last lines are a
table; the exit code is 1 where a bug was not found, or where something was found without one (CONTROL, with all seeds).
Those of BEYOND are not tried, and not counted as found. Where the bug is in the agent no scenes are played first: their
workers are puppets.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jsm_queue.errors import SetupError
from tests.chaos import apibugs, bugs
from tests.chaos import study as studies
from tests.chaos.__main__ import plan
from tests.chaos.run import run, run_calmly
from tests.lifecycle import planted as foundation

BEYOND = {
    "a whole file is removed": "the api looks itself whether the artifact is doomed before it asks the lifecycle to "
    "forget it, and lets nobody send the file meanwhile: no request gets there",
}
"""Bug → why no run of the whole pool can show it."""

FAULTS = 60  # at most: the study may end before
STEP_S = 0.4  # of a job's twenty
LIMIT_S = 400.0
SEEDS = 3
WRONG = 3  # exit code of one run that found something
CONTROL = "no bug"
KNOWN = (*bugs.BUGS, *apibugs.BUGS, *foundation.BUGS)  # the longest runs first
UNSOUND = ("TypeError", "AttributeError", "NameError")
"""What a plant that does not fit the code raises: it has found nothing but itself."""


class Found(NamedTuple):
    """`by`: what was wrong, "" for nothing; `seconds`: of all runs."""

    bug: str
    by: str
    seed: int
    seconds: float


def main() -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.hunt", description=__doc__)
    parser.add_argument("bugs", nargs="*", help="their names; without any all of them")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs a bug, at most")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--one", nargs=2, metavar=("SEED", "CALM"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        return _one(given.bugs[0], int(given.one[0]), given.database, Path(given.one[1]))
    sought = given.bugs or [CONTROL, *(bug for bug in KNOWN if bug not in BEYOND)]
    if unknown := sorted(set(sought) - {CONTROL, *KNOWN}):
        parser.error(f"no such bug: {', '.join(unknown)}")
    found = hunt(sought, given.jobs, given.seeds, given.database)
    tell(found)
    return 0 if all(bool(each.by) != (each.bug == CONTROL) for each in found) else 1


def hunt(sought: list[str], at_once: int, seeds: int, database: str) -> list[Found]:
    """What finds each of them. Every run is a process of its own, as a bug may end it."""
    folder = Path(tempfile.mkdtemp(prefix="jsm-hunt-"))
    calm = folder / "calm.json"
    toy = studies.make(folder / "study", short=True)
    calm.write_text(json.dumps(run_calmly(toy, folder / "home")), encoding="utf-8")
    try:
        with ThreadPoolExecutor(at_once) as runs:
            return list(runs.map(lambda bug: _seek(bug, seeds, database, calm), sought))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _seek(bug: str, seeds: int, database: str, calm: Path) -> Found:
    began = time.monotonic()
    found = Found(bug, "", 0, 0.0)
    for seed in range(1, seeds + 1):
        argv = [sys.executable, "-W", "ignore", "-m", "tests.chaos.hunt", bug, "--database", database]
        done = subprocess.run(
            [*argv, "--one", str(seed), str(calm)], capture_output=True, encoding="utf-8", check=False
        )
        if done.returncode not in (0, WRONG):
            raise RuntimeError(f"{bug}: {done.stderr[-1000:]}")
        by = done.stdout.strip().rpartition("\n")[2] if done.returncode else ""
        found = Found(bug, by, seed, time.monotonic() - began)
        if found.by:
            break
    print(_row(found), flush=True)
    return found


def _one(bug: str, seed: int, database: str, calm: Path) -> int:
    """One run, in this process. Prints the first thing that is wrong; exits 0 where nothing is."""
    known: dict[str, Any] = {
        part: [tuple(row) for row in rows] for part, rows in json.loads(calm.read_text(encoding="utf-8")).items()
    }
    planted = "" if bug == CONTROL else bug
    chosen = replace(plan(seed, FAULTS, database, short=True), step_s=STEP_S, limit_s=LIMIT_S)
    chosen = replace(chosen, exact=False, bug=planted, scenes=bug not in bugs.BUGS)
    while True:
        folder = Path(tempfile.mkdtemp(prefix="jsm-hunt-"))
        try:
            outcome = run(chosen, folder, lambda line: print(line, flush=True), known)
            break
        except SetupError as error:  # a port that another run took a moment earlier
            print(error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if any(word in line for word in UNSOUND for line in outcome.wrong):
        raise SystemExit(f"the plant itself is broken: {outcome.wrong[0]}")
    print(outcome.wrong[0].splitlines()[0] if outcome.wrong else "nothing")
    return WRONG if outcome.wrong else 0


def tell(found: list[Found]) -> None:
    """The table."""
    print(f"\n{'bug':52} {'after s':>7}  seed  found by")
    for each in sorted(found):
        print(_row(each))
    for bug, why in BEYOND.items():
        print(f"{bug:52} {'-':>7}  {'-':>4}  not tried: {why}")
    planted = [each for each in found if each.bug != CONTROL]
    missed = [each.bug for each in planted if not each.by]
    print(f"{len(planted) - len(missed)} of {len(planted)} planted bugs found" + "".join(f"; not: {m}" for m in missed))


def _row(found: Found) -> str:
    return f"{found.bug:52} {found.seconds:7.0f}  {found.seed:4}  {found.by[:160] or 'nothing'}"


if __name__ == "__main__":
    raise SystemExit(main())
