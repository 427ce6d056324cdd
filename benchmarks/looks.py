"""A look of the coordinator at a large store: what `assign` costs with reading before it and binding after it.

The store is SQLite: one study with all its jobs ready, whatever they need, and copies of some, 20 000 in all; 500
workers with a GPU and a CPU slot each, of which fifty slots are free at each look. Nobody is rung.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, delete, insert, update
from sqlmodel import col

from benchmarks import scenes
from benchmarks.form import Row
from benchmarks.scenes import Size
from jsm_queue import assigning, lifecycle, planner
from jsm_queue.canonical import content_hash
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, writing

READY = 20_000
WORKERS = 500
FREE = 50  # slots at each look
LOOKS = 100
NOW = 1_750_000_000.0


def rows(size: Size) -> list[Row]:
    """Milliseconds of looks: of the first, which reads all jobs, and of those after it."""
    with tempfile.TemporaryDirectory(prefix="jsm-looks-") as folder:
        engine = open_store(f"sqlite:///{(Path(folder) / 'store.sqlite').as_posix()}")
        _fill(engine, size)
        first, *taken = [_look(engine, NOW + i) for i in range(LOOKS + 1)]
        engine.dispose()
    p99 = statistics.quantiles(taken, n=100)[98]
    return [
        Row("assign with reading and binding, p99 at 1 000 slots and 20 000 ready jobs", p99, "ms"),
        Row("assign with reading and binding, median", statistics.median(taken), "ms"),
        Row("assign with reading and binding, the first look", first, "ms"),
    ]


def _look(engine: Engine, now: float) -> float:
    """Milliseconds. What was bound is undone after it, so that every look finds the same."""
    begun = time.perf_counter()
    assigning.assign(engine, lambda *_: None, now)
    taken = 1000 * (time.perf_counter() - begun)
    with writing(engine) as session:
        connection = session.connection()
        bound = connection.execute(update(t.Job).where(col(t.Job.state) == "active").values(state="ready")).rowcount
        connection.execute(delete(t.Attempt))
        connection.execute(delete(t.Run))
    if bound != FREE:
        raise SystemExit(f"{bound} jobs were bound to {FREE} free slots")
    return taken


def _fill(engine: Engine, size: Size) -> None:
    spec, inputs = scenes.spec_of(size, "large")
    with writing(engine) as session:
        study, _ = lifecycle.add_study(session, spec.model_dump(mode="json"), inputs.model_dump(mode="json"), NOW)
        name = study.id
    listed: dict[str, planner.Wanted] = {}
    for wanted in planner.preview(spec, inputs):
        if wanted.job.kind != "latency":  # it would keep a whole worker
            listed.setdefault(wanted.job.id, wanted)
    jobs = list(listed.items())
    jobs += [(content_hash(["copy", job]), wanted) for job, wanted in jobs[: READY - len(jobs)]]
    with writing(engine) as session:
        connection = session.connection()
        connection.execute(insert(t.Job), [_job(*each) for each in jobs])
        connection.execute(insert(t.StudyJob), [_listing(name, *each) for each in jobs])
        session.add_all(_worker(i) for i in range(WORKERS))
        session.flush()
        session.add_all(_slot(i, kind) for i in range(WORKERS) for kind in ("gpu", "cpu"))


def _job(job: str, wanted: planner.Wanted) -> dict[str, Any]:
    row = t.Job(id=job, kind=wanted.job.kind, params=wanted.job.params, state="ready", created_at=NOW)
    return row.model_dump()


def _listing(study: str, job: str, wanted: planner.Wanted) -> dict[str, Any]:
    cell = wanted.cell
    named = {column: getattr(cell, column, None) for column in ("base", "n", "seed", "format")}
    return {
        "study": study,
        "job": job,
        "stage": wanted.stage,
        "cell": cell.label if cell else "",
        "reused": False,
    } | named


def _worker(i: int) -> t.Worker:
    card = sorted(scenes.GPUS)[i % len(scenes.GPUS)]
    hardware = {"hardware_class": card, "gpus": [card], "cpu": "x", "cores": 8}
    return t.Worker(
        id=f"w{i:03}", name=f"pc{i}", token_hash=str(i), joined_at=NOW, lease_until=NOW + 1e9, hardware=hardware
    )


def _slot(i: int, kind: str) -> t.Slot:
    total = 24 * 10**9 if kind == "gpu" else 32 * 10**9
    here = {"worker": f"w{i:03}", "idx": int(kind == "cpu"), "kind": kind, "device": kind}
    return t.Slot(**here, vram_free=total, vram_total=total, free=i % (2 * WORKERS // FREE) == 0)
