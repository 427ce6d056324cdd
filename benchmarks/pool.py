"""`make bench-pool`: how a pool takes a machine's death, an owner's wish, an outage.

The first three are measured on a real pool of six worker processes, with a lease of 10 s: what is beyond the lease does
not depend on it, but on the coordinator's tick, which is the default. The last ones are a weekend of eight PCs in
virtual time (`benchmarks/hometrace.py`). What a GPU gives back is measured where there is one: `make
bench-gpu-release`.
"""

import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from sqlmodel import col, select

from benchmarks.form import Row, report
from benchmarks.homestudy import Weekend
from benchmarks.hometrace import live
from jsm_queue import processes
from jsm_queue.store import queries
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from tests.chaos import study as studies
from tests.chaos.pool import WORKERS, ChaosPool, patience, tended

LEASE_S = 10.0
DEATHS = 8
CYCLES = 12  # of a study's pause and resume, with two to four attempts each
LONG_STEP_S = 3.0  # as a training step on a gaming PC takes: so a job lasts for a minute
SHORT_STEP_S = 0.5  # so that workers that share a few cores wait for work, not for each other
SEEDS = (1, 2)
WORSE_GAP_EVERY_S = 4 * 3600.0
LIMIT_S = 300.0


def main() -> int:
    """Measure everything and write the results. Returns the exit status."""
    rows = [*real_rows(), *virtual_rows()]
    return report("pool", rows)


# ---- a real pool -------------------------------------------------------------------------------------------


def real_rows() -> Iterator[Row]:
    """What needs processes."""
    with _pool(LONG_STEP_S, short=True) as (pool, study):
        hit: set[str] = set()
        beyond = [recovery(pool, hit) for _ in range(DEATHS)]
        yield Row("recovery after worker death", max(beyond), "seconds beyond the lease", bound=5.0)
        latencies = sorted(each for _ in range(CYCLES) for each in control(pool, study))
        yield Row("control latency p99", _percentile(latencies, 0.99), "s", bound=2.0)
        yield Row("control latency p50", statistics.median(latencies), "s")
    with _pool(SHORT_STEP_S, short=False) as (pool, study):
        _wait(pool, lambda: pool.study_state(study) == "ended", "the study's end")
        yield Row("hand-off gap warm p50", statistics.median(handoffs(pool)), "s", bound=0.3)


@contextmanager
def _pool(step_s: float, short: bool) -> Iterator[tuple[ChaosPool, str]]:
    """A pool with a study under way, and the study. A short one has fewer jobs at a time than there are workers."""
    os.environ["CHAOS_TIMES"] = "1"
    with tempfile.TemporaryDirectory(prefix="jsm-bench-") as folder:
        toy = studies.make(Path(folder) / "study", short)
        pool = ChaosPool(Path(folder) / "home", None, step_s)
        pool.environment["JSM_LEASE_S"] = str(LEASE_S)
        del pool.environment["JSM_TICK_S"]
        try:
            pool.start_everything()
            study = str(_wait(pool, lambda: pool.try_submit(toy), "the submission"))
            _wait(pool, lambda: _live(pool) == len(WORKERS), "six workers")
            yield pool, study
        finally:
            pool.abandon()


def _wait(pool: ChaosPool, condition: Callable[[], object], what: str) -> object:
    return tended(pool, condition, what, time.monotonic() + patience(LIMIT_S))


def _live(pool: ChaosPool) -> int:
    """How many workers' sessions are believed alive."""
    with reading(pool.store) as session:
        return len(queries.live_workers(session, time.time()))


def running(pool: ChaosPool, but: Collection[str] = ()) -> dict[str, str]:
    """Attempt → its worker's name, of those under way, but not of those jobs."""
    with reading(pool.store) as session:
        query = select(t.Attempt.id, t.Worker.name).join(t.Worker, col(t.Worker.id) == col(t.Attempt.worker))
        return dict(session.exec(query.where(t.Attempt.state == "running", col(t.Attempt.job).not_in(but))).all())


def recovery(pool: ChaosPool, hit: set[str]) -> float:
    """Seconds from the end of a dead worker's lease to when another, which was free, runs its job. That goes to `hit`.

    No job is hit twice: it would be taken for what kills its workers.
    """

    def unhit() -> dict[str, str]:
        return running(pool, but=hit) if _wanted(pool) < _live(pool) == len(WORKERS) else {}

    attempt, worker = min(_wait(pool, unhit, "a free worker and an attempt").items())  # type: ignore[attr-defined]
    pool.kill_part(worker, for_s=LIMIT_S)
    killed = time.time()
    with reading(pool.store) as session:
        dead = session.get_one(t.Attempt, attempt)
        lease = session.get_one(t.Worker, dead.worker).lease_until
    if dead.state != "running":  # it was complete just before
        pool.down.clear()
        return recovery(pool, hit)
    hit.add(dead.job)

    def taken_over() -> float | None:
        later = select(t.Attempt.started_at).where(t.Attempt.job == dead.job, col(t.Attempt.started_at) > killed)
        with reading(pool.store) as session:
            return session.exec(later).first()

    started = _wait(pool, taken_over, f"a successor of {attempt}")
    pool.down.clear()
    return max(0.0, float(str(started)) - lease)


def _wanted(pool: ChaosPool) -> int:
    """How many slots are taken, or will be with the next look."""
    with reading(pool.store) as session:
        states = select(t.Job.id).where(col(t.Job.state).in_(("ready", "active")))
        return len(session.exec(states).all())


def control(pool: ChaosPool, study: str) -> list[float]:
    """Seconds from a study's pause to the end of each of its attempts."""
    held = _wait(pool, lambda: len(found := running(pool)) >= 2 and found, "attempts under way")
    asked = time.time()
    pool.http.post(f"/v1/studies/{study}/pause").raise_for_status()

    def ends() -> list[float] | None:
        with reading(pool.store) as session:
            found = select(t.Attempt.ended_at).where(col(t.Attempt.id).in_(list(held)))  # type: ignore[call-overload]
            times = session.exec(found).all()
        return [each - asked for each in times if each] if all(times) else None

    found = _wait(pool, ends, "the ends of all attempts")
    pool.http.post(f"/v1/studies/{study}/resume").raise_for_status()
    return list(found)  # type: ignore[call-overload]


def handoffs(pool: ChaosPool) -> list[float]:
    """Seconds between two jobs that one worker did one after the other, by the runner's own times.

    Between jobs that were ready already: a gap in which nothing was ready is not a hand-off's.
    """
    query = (
        select(t.Attempt.worker, t.Attempt.job, t.Metric.name, t.Metric.value)
        .join(t.Metric, col(t.Metric.job) == col(t.Attempt.job))
        .where(t.Attempt.state == "accepted", col(t.Metric.name).in_(("began", "ended")))
    )
    times: dict[tuple[str, str], dict[str, float]] = {}
    with reading(pool.store) as session:
        for worker, job, name, value in session.exec(query):
            times.setdefault((worker, job), {})[name] = value
        ready = {event.job: event.at for event in session.exec(select(t.Event).where(t.Event.what == "job ready"))}
    gaps: list[float] = []
    for worker in {worker for worker, _ in times}:
        own = sorted((found["began"], found["ended"], job) for (w, job), found in times.items() if w == worker)
        for (_, ended, _), (began, _, job) in itertools.pairwise(own):
            if ready.get(job, began) <= ended:
                gaps.append(began - ended)
    return gaps


def _percentile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, round(share * (len(values) - 1)))]


# ---- a weekend in virtual time -----------------------------------------------------------------------------


def virtual_rows() -> Iterator[Row]:
    """The medians over the seeds, and one weekend on a worse Wi-Fi."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, processes.cores()), mp_context=context) as machines:
        kept = [machines.submit(live, seed, True) for seed in SEEDS]
        zero = [machines.submit(live, seed, False) for seed in SEEDS]
        worse = machines.submit(live, SEEDS[0], True, WORSE_GAP_EVERY_S)
        lost, from_zero = (_median(runs, "lost_per_failure") for runs in (kept, zero))
        yield Row("GPU-seconds lost per failure", lost, "s", None, "restart from zero", from_zero)
        goodput, from_zero = (_median(runs, "goodput") for runs in (kept, zero))
        yield Row("goodput on a home trace", goodput, "share", 0.93, "restart from zero", from_zero, at_least=True)
        yield Row("goodput, Wi-Fi away every 4 h", worse.result().goodput, "share")


def _median(runs: list[Future[Weekend]], what: str) -> float:
    return statistics.median(getattr(run.result(), what) for run in runs)


if __name__ == "__main__":
    raise SystemExit(main())
