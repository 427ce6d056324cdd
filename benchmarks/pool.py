"""`make bench-pool`: how a pool takes a machine's death, an owner's wish, an outage.

The first three are measured on a real pool of six worker processes, with a lease of 4 s: what is beyond the lease does
not depend on it. The last ones are a day of eight PCs in virtual time (`benchmarks/hometrace.py`). What a GPU gives
back is measured where there is one: `make bench-gpu-release`.
"""

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlmodel import Session, col, select

from benchmarks.form import Row, report
from benchmarks.hometrace import Day, Home
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, reading
from tests.chaos import study as studies
from tests.chaos.pool import ChaosPool, tended

DEATHS = 8
CYCLES = 12  # of a study's pause and resume, with six attempts each
STEP_S = 0.25  # so that a job takes five seconds
SEEDS = (1, 2, 3)
LIMIT_S = 300.0
POLL_S = 0.01


def main() -> int:
    """Measure everything and write the results. Returns the exit status."""
    rows = [*real_rows(), *virtual_rows()]
    return report("pool", rows)


# ---- a real pool -------------------------------------------------------------------------------------------


def real_rows() -> Iterator[Row]:
    """What needs processes."""
    with _pool(STEP_S) as (pool, study):
        beyond = [recovery(pool) for _ in range(DEATHS)]
        yield Row("recovery after worker death", max(beyond), "seconds beyond the lease", bound=5.0)
        latencies = sorted(each for _ in range(CYCLES) for each in control(pool, study))
        yield Row("control latency p99", _percentile(latencies, 0.99), "s", bound=2.0)
        yield Row("control latency p50", statistics.median(latencies), "s")
    with _pool(0.0) as (pool, study):
        _wait(pool, lambda: pool.study_state(study) == "ended", "the study's end")
        with reading(pool.store) as session:
            gaps = handoffs(session)
        yield Row("hand-off gap warm p50", statistics.median(gaps), "s", bound=0.3)


@contextmanager
def _pool(step_s: float) -> Iterator[tuple[ChaosPool, str]]:
    os.environ["CHAOS_TIMES"] = "1"
    with tempfile.TemporaryDirectory(prefix="jsm-bench-") as folder:
        pool = ChaosPool(studies.make(Path(folder) / "study", short=False), Path(folder) / "home", None, step_s)
        try:
            pool.start_everything()
            study = str(_wait(pool, pool.try_submit, "the submission"))
            _wait(pool, lambda: len(running(pool)) >= 2, "two attempts under way")
            yield pool, study
        finally:
            pool.leave()


def _wait(pool: ChaosPool, condition: Callable[[], object], what: str) -> object:
    return tended(pool, condition, what, time.monotonic() + LIMIT_S)


def running(pool: ChaosPool) -> dict[str, str]:
    """Attempt → its worker's name, of those under way."""
    with reading(pool.store) as session:
        query = select(t.Attempt.id, t.Worker.name).join(t.Worker, col(t.Worker.id) == col(t.Attempt.worker))
        return dict(session.exec(query.where(t.Attempt.state == "running")).all())


def recovery(pool: ChaosPool) -> float:
    """Seconds from a dead worker's lease to when another runs its job."""
    attempt, worker = next(iter(sorted(_wait(pool, lambda: running(pool), "an attempt").items())))  # type: ignore[union-attr]
    pool.kill_part(worker, for_s=60)
    with reading(pool.store) as session:
        job = session.get_one(t.Attempt, attempt).job
        lease = session.exec(select(t.Worker.lease_until).where(t.Worker.name == worker)).one()

    def taken_over() -> float | None:
        with reading(pool.store) as session:
            later = select(t.Attempt.started_at).where(t.Attempt.job == job, t.Attempt.id != attempt)
            return session.exec(later.where(col(t.Attempt.started_at).is_not(None))).first()

    started = _wait(pool, taken_over, f"a successor of {attempt}")
    pool.down.clear()
    return max(0.0, float(str(started)) - lease)


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


def handoffs(session: Session) -> list[float]:
    """Seconds between two jobs that one worker did one after the other, by the runner's own times.

    Between jobs that were ready already: a gap in which nothing was ready is not a hand-off's.
    """
    query = (
        select(t.Attempt.worker, t.Attempt.job, t.Metric.name, t.Metric.value)
        .join(t.Metric, col(t.Metric.job) == col(t.Attempt.job))
        .where(t.Attempt.state == "accepted", col(t.Metric.name).in_(("began", "ended")))
    )
    times: dict[tuple[str, str], dict[str, float]] = {}
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


# ---- a day in virtual time ---------------------------------------------------------------------------------


def virtual_rows() -> Iterator[Row]:
    """The medians over the seeds."""
    days, zero = [day(seed, keep=True) for seed in SEEDS], [day(seed, keep=False) for seed in SEEDS]
    lost, lost_zero = (statistics.median(d.lost_per_failure for d in each) for each in (days, zero))
    yield Row("GPU-seconds lost per failure", lost, "s", None, "restart from zero", lost_zero)
    goodput, from_zero = (statistics.median(d.goodput for d in each) for each in (days, zero))
    yield Row("goodput on a home trace", goodput, "share", 0.93, "restart from zero", from_zero, at_least=True)


def day(seed: int, keep: bool) -> Day:
    """One day of eight PCs."""
    with tempfile.TemporaryDirectory(prefix="jsm-bench-") as folder:
        engine = open_store(f"sqlite:///{Path(folder).as_posix()}/store.sqlite")
        try:
            return Home(engine, Path(folder), seed, keep).run()
        finally:
            engine.dispose()


if __name__ == "__main__":
    raise SystemExit(main())
