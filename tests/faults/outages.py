"""`python -m tests.faults.outages --minutes 60`: queue, api and worker are away for so long, each in a pool of its own.

All three at once, in the middle of a training, with the lease and the ticks that the product has. When the part is back
everything must go on by itself: no finished result discarded, no job begun twice, the decisions of an undisturbed pool.
The tests do the same with short leases and outages (tests/faults, tests/chaos).
"""

import argparse
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil
from sqlmodel import Session, col, func, select

from jsm_queue.settings import Settings
from jsm_queue.store import tables as t
from tests.faults.calm import Calm, run_calmly
from tests.pool import SHORT, Pool, write_study
from tests.waiting import wait_for

PARTS = ("valkey", "api", "agent")
USUAL = {
    f"JSM_{name.upper()}": str(Settings.model_fields[name].default)
    for name in ("lease_s", "heartbeat_s", "offer_s", "tick_s")
}
TRAINING = {"epochs": 12, "batch": 1, "max_length": 128, "quantized": False, "r": 4}
PATIENCE_S = 900.0


class Outcome(NamedTuple):
    """`part` was away; the study ended `seconds` after it was back. What should be 0, and whether decisions differ."""

    part: str
    seconds: float
    not_done: int
    discarded: int
    begun_twice: int
    differs: bool

    @property
    def is_right(self) -> bool:
        """Nothing was lost, nothing done twice."""
        return not (self.not_done or self.discarded or self.begun_twice or self.differs)


def main() -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.outages", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    minutes = parser.parse_args().minutes
    folder = Path(tempfile.mkdtemp(prefix="jsm-outages-"))
    spec = write_study(folder / "study", **SHORT, training=TRAINING)
    calm = run_calmly(folder / "study", folder / "calm", spec)
    print(f"outages: {', '.join(PARTS)} are away for {minutes:g} min", flush=True)
    pools = {part: Pool(folder / part, **USUAL) for part in PARTS}  # a store is made in one thread at a time
    with ThreadPoolExecutor(len(PARTS)) as several:
        outcomes = list(several.map(lambda part: outage(pools[part], part, minutes * 60, calm), PARTS))
    for one in outcomes:
        print(
            f"{one.part} away for {minutes:g} min: study ended {one.seconds:.0f} s after it was back; jobs not done "
            f"{one.not_done}, results discarded {one.discarded}, jobs begun twice {one.begun_twice}, decisions "
            f"{'differ' if one.differs else 'the same'}"
        )
    if not all(one.is_right for one in outcomes):
        print(f"something is wrong; the homes are in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def outage(pool: Pool, part: str, seconds: float, calm: Calm) -> Outcome:
    """One pool, of which one part is away in the middle of a training."""
    try:
        pool.start_all()
        study = pool.submit(calm.spec, calm.folder)
        wait_for(lambda: any(j["kind"] == "train" and j["position"] for j in pool.jobs(study)), "the training", 300)
        leave(pool, part)
        time.sleep(seconds)
        come_back(pool, part)
        began = time.monotonic()
        pool.wait_ended(study, PATIENCE_S)
        took = time.monotonic() - began
        not_done = sum(job["state"] != "done" for job in pool.jobs(study))
        differs = pool.outcome(study) != calm.outcome or pool.records(study) != calm.records
        return Outcome(part, took, not_done, *_attempts(pool), differs)
    finally:
        pool.close()


def leave(pool: Pool, part: str) -> None:
    """A queue or an api dies; a machine falls asleep."""
    if part != "agent":
        pool.kill(part)
        return
    for process in _machine(pool):
        process.suspend()


def come_back(pool: Pool, part: str) -> None:
    """Nothing where the part is there."""
    if part == "agent":
        for process in _machine(pool):
            process.resume()
    elif part not in pool.parts:
        pool.start_valkey() if part == "valkey" else pool.start_api()


def _machine(pool: Pool) -> list[psutil.Process]:
    agent = psutil.Process(pool.parts["agent"].pid)
    return [agent, *agent.children(recursive=True)]


def _attempts(pool: Pool) -> tuple[int, int]:
    """How many attempts ended with a whole result that did not count, and how many jobs were begun more than once."""
    with Session(pool.store) as session:
        discarded = session.exec(select(func.count()).where(t.Attempt.reason == "superseded")).one()
        begun = (
            select(t.Attempt.job)
            .where(col(t.Attempt.started_at).is_not(None))
            .group_by(col(t.Attempt.job))
            .having(func.count() > 1)
        )
        return discarded, len(session.exec(begun).all())


if __name__ == "__main__":
    sys.exit(main())
