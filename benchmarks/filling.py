"""A store as it is after many studies: what `benchmarks/store.py` measures.

Studies of about 1 000 jobs (20 sizes × 5 seeds, then 14 bases × 5 seeds, then 4 of them × 5 seeds × 5 formats) and one
of about 20 000 (50 sizes × 20 seeds, all read on the test set, 50 bases × 20 seeds, 17 × 20 × 7). The planner lays
them out, so the store holds what a coordinator would have listed. A job that is done has an attempt with its run, its
artifacts, two metrics and five events; `score` carries 12 items × 3 records, `judge` 20, so about ten records a job.
Values follow from the cell and the item alone (seeded): studies of one shape measure and decide the same.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Engine, insert, text, update
from sqlmodel import SQLModel, col, select

from jsm_queue import lifecycle, planner, protocol, verdicts
from jsm_queue.canonical import content_hash
from jsm_queue.comparison import CellValues
from jsm_queue.kinds import KINDS, BaseRef, FileRef, Inputs
from jsm_queue.spec import StudySpec, parse_spec
from jsm_queue.store import tables as t
from jsm_queue.store.database import writing

FORMATS = ["F16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q6_K", "Q2_K"]
HARDWARE = "RTX 4060 Ti 16 GB"
WORKERS, SLOTS = 4, 2  # a GPU and a CPU slot each
SCORED, JUDGED = 12, 20  # items of a score and of a judge job
START = 1_750_000_000.0  # when the first study was submitted; one an hour
SECONDS = 60.0  # a job took
MESSAGES = ("job ready", "attempt offered", "attempt running", "attempt accepted", "job done")


@dataclass(frozen=True)
class Shape:
    """How large a study's grids are. `read_test`: of stage 1."""

    bases: int
    sizes: int
    seeds: int
    keep: int
    formats: int
    read_test: str = "chosen"


SMALL = Shape(bases=14, sizes=20, seeds=5, keep=4, formats=5)
BIG = Shape(bases=50, sizes=50, seeds=20, keep=17, formats=7, read_test="all")


@dataclass(frozen=True)
class Filled:
    """A study to fill in: the stages that have a verdict, and the share of the next one's jobs that are done."""

    shape: Shape
    decided: tuple[planner.Stage, ...] = ("scale", "bases", "quantization")
    share: float = 1.0

    @property
    def ended(self) -> bool:
        """Are all its stages decided?"""
        return len(self.decided) == 3


def fill(engine: Engine, studies: Sequence[Filled]) -> list[str]:
    """Write the studies and the workers that did them into an empty store. Returns the studies' ids."""
    _add_workers(engine)
    ids = [_fill_study(engine, number, filled) for number, filled in enumerate(studies)]
    if engine.dialect.name == "postgresql":  # as its autovacuum would, a minute later
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT", jsm_write=True) as connection:
            connection.execute(text("VACUUM ANALYZE"))
    return ids


def hello(worker: int, slots: int = SLOTS) -> protocol.HelloRequest:
    """How a worker of the benchmark introduces itself."""
    hardware = protocol.Hardware(hardware_class=HARDWARE, os="Linux", cpu="x", cores=8, memory_bytes=2**35)
    return protocol.HelloRequest(
        boot_id=f"{worker:032x}", hardware=hardware, slots=[slot_report(i) for i in range(slots)], undelivered=[]
    )


def slot_report(idx: int, run: str | None = None) -> protocol.SlotReport:
    """A free slot; `run`: what it ran."""
    kind = "gpu" if idx % 2 == 0 else "cpu"
    return protocol.SlotReport(idx=idx, kind=kind, device=kind, vram_free=2**34, free=True, run=run)


def _add_workers(engine: Engine) -> None:
    with writing(engine) as session:
        for i in range(WORKERS):
            worker = t.Worker(id=f"w{i}", name=f"pc{i}", token_hash=str(i), joined_at=START)
            session.add(worker)
            session.flush()
            lifecycle.hello(session, worker, hello(i), lease_s=1e12, now=START)


def _fill_study(engine: Engine, number: int, filled: Filled) -> str:
    spec, inputs = _spec(filled.shape, number), _inputs(filled.shape, number)
    now = START + 3600 * number
    with writing(engine) as session:
        study, _ = lifecycle.add_study(session, spec.model_dump(mode="json"), inputs.model_dump(mode="json"), now)
        study.hardware = HARDWARE
        if filled.ended:
            study.state, study.ended_at = "ended", now + SECONDS
    found = {stage: _verdicts(filled.shape)[stage] for stage in filled.decided}
    jobs, states = _lay_out(study.id, spec, inputs, {stage: v.decision for stage, v in found.items()}, filled.share)
    rows = _rows(study.id, jobs, states, now)
    rows[t.VerdictRow] = [_verdict_row(study.id, stage, verdict, now) for stage, verdict in found.items()]
    with writing(engine) as session:
        last = session.get_one(t.Counter, "event")
        for row in rows[t.Event]:
            last.value += 1
            row["seq"] = int(last.value)
        for table, values in rows.items():
            if values:
                session.connection().execute(insert(table), values)
    return study.id


def _spec(shape: Shape, number: int) -> StudySpec:
    names = [f"base-{i:02}" for i in range(shape.bases)]
    return parse_spec(
        {
            "name": f"study-{number}",
            "data": {"source": "data.yaml"},
            "bases": [{"name": name, "source": f"bases/{name}"} for name in names],
            "stages": {
                "scale": {
                    "base": names[0],
                    "sizes": [100 * (i + 1) for i in range(shape.sizes)],
                    "seeds": list(range(shape.seeds)),
                    "read_test": shape.read_test,
                },
                "bases": {"seeds": list(range(shape.seeds))},
                "quantization": {"keep": shape.keep, "formats": FORMATS[: shape.formats]},
            },
        }
    )


def _inputs(shape: Shape, number: int) -> Inputs:
    files = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    bases = {
        base.name: BaseRef(form="folder", files={file: content_hash([number, base.name, file]) for file in files})
        for base in _spec(shape, number).bases
    }
    return Inputs(source=FileRef(sha=content_hash(number), suffix=".yaml"), bases=bases)


def _lay_out(
    study: str, spec: StudySpec, inputs: Inputs, decisions: Mapping[str, Mapping[str, Any]], share: float
) -> tuple[list[planner.Wanted], dict[str, str]]:
    """What the study lists by now, and the jobs' states: the stages before the last are done, of that one `share`."""
    states: dict[str, str] = {}
    while True:
        jobs = planner.plan(planner.Study(study, spec, inputs, HARDWARE, states, decisions)).jobs
        done = {wanted.job.id: "done" for wanted in jobs if wanted.stage in decisions}
        if states == done:
            break
        states = done
    left = list({wanted.job.id: wanted.job for wanted in jobs if wanted.job.id not in states}.values())
    for place, job in enumerate(left):
        needs_done = all(states[need] == "done" for need in job.needs.values())
        states[job.id] = "done" if place < share * len(left) else "ready" if needs_done else "waiting"
    return jobs, states


@cache
def _verdicts(shape: Shape) -> dict[planner.Stage, verdicts.Verdict]:
    """What the studies of a shape decide."""
    spec, inputs = _spec(shape, 0), _inputs(shape, 0)
    found: dict[planner.Stage, verdicts.Verdict] = {}
    kinds: dict[planner.Stage, str] = {"scale": "score", "bases": "judge", "quantization": "judge"}
    for stage, kind in kinds.items():
        jobs, _ = _lay_out("0" * 64, spec, inputs, {stage: v.decision for stage, v in found.items()}, 0.0)
        cells = [_values(w.cell, w.job.kind) for w in jobs if w.cell and (w.stage, w.job.kind) == (stage, kind)]
        if stage == "scale":
            found[stage] = verdicts.scale_verdict(cells, [])
        elif stage == "bases":
            found[stage] = verdicts.bases_verdict(cells, shape.keep, [])
        else:
            found[stage] = verdicts.quantization_verdict(cells, [])
    return found


def _verdict_row(study: str, stage: str, verdict: verdicts.Verdict, now: float) -> dict[str, Any]:
    version = {"rules_version": verdicts.RULES_VERSION, "created_at": now}
    return {"study": study, "stage": stage, "look": 1, **vars(verdict), **version}


def _values(cell: planner.Cell, kind: str) -> CellValues:
    values: dict[str, dict[str, float]] = {"nll": {}, "tokens": {}, "bytes": {}, "score": {}}
    for item, name, value in measure(kind, cell):
        values[name][item] = value
    main = values["nll"] or values["score"]
    return CellValues(cell.label, cell.base, cell.n, cell.seed, cell.format, main, values["tokens"], {})


@cache
def measure(kind: str, cell: planner.Cell | None) -> list[tuple[str, str, float]]:
    """(item, name, value) of each record of a job of that kind for that cell."""
    rng = random.Random(f"{kind} {cell}")
    if kind == "score":
        worth = 1 + 10 / (cell.n if cell and cell.n else 50)
        items = [(f"v{i:03}", 20.0 + i) for i in range(SCORED)]
        named = {"nll": lambda tokens: worth * tokens * rng.uniform(0.9, 1.1), "tokens": float, "bytes": (4.5).__mul__}
        return [(item, name, round(make(tokens), 6)) for item, tokens in items for name, make in named.items()]
    if kind == "judge":
        return [(f"q{i:03}", "score", float(rng.randint(0, 3))) for i in range(JUDGED)]
    return []


Rows = dict[type[SQLModel], list[dict[str, Any]]]


def _rows(study: str, jobs: Sequence[planner.Wanted], states: Mapping[str, str], now: float) -> Rows:
    """Table → its rows of a study, in an order in which every row comes after those that it names; events yet without
    their numbers.
    """
    order = (t.Job, t.JobNeed, t.StudyJob, t.Run, t.Attempt, t.Artifact, t.ArtifactRef, t.Record, t.Metric, t.Event)
    rows: Rows = {table: [] for table in order}
    seen = set()
    for wanted in jobs:
        rows[t.StudyJob].append(_listing(study, wanted))
        if wanted.job.id not in seen:
            seen.add(wanted.job.id)
            for table, row in _job_rows(wanted, states[wanted.job.id], len(seen), now):
                rows[table].append(row)
    return rows


def _listing(study: str, wanted: planner.Wanted) -> dict[str, Any]:
    cell = wanted.cell
    named = {name: getattr(cell, name, None) for name in ("base", "n", "seed", "format")}
    label = cell.label if cell else ""
    return {"study": study, "job": wanted.job.id, "stage": wanted.stage, "cell": label, "reused": False, **named}


def _job_rows(
    wanted: planner.Wanted, state: str, place: int, now: float
) -> Iterator[tuple[type[SQLModel], dict[str, Any]]]:
    job, done = wanted.job, state == "done"
    row = t.Job(id=job.id, kind=job.kind, params=job.params, state=state, created_at=now)
    if done:
        row.accepted_attempt, row.ended_at = job.id[:32], now + SECONDS
    yield t.Job, row.model_dump()
    for name, need in job.needs.items():
        yield t.JobNeed, {"job": job.id, "name": name, "needs": need}
    if not done:
        yield t.Event, _event(f"job {state}", job.id, now)
        return
    yield from _attempt_rows(job.id, place, now)
    for role in KINDS[job.kind].outputs:
        sha = content_hash([job.id, role])
        yield t.Artifact, t.Artifact(sha=sha, size=1000, created_at=now).model_dump()
        yield t.ArtifactRef, {"job": job.id, "role": role, "sha": sha}
    for item, name, value in measure(job.kind, wanted.cell):
        meta = {"found": ["a key fact"], "missed": ["another"]} if job.kind == "judge" else None
        record = {"item": item, "name": name, "value": value, "meta": meta}
        yield t.Record, {"job": job.id, "attempt": job.id[:32], **record}
    for name in ("seconds", {"convert": "bytes", "parity": "kl"}.get(job.kind, "peak_bytes")):
        yield t.Metric, {"job": job.id, "name": name, "value": SECONDS}
    for what in MESSAGES:
        yield t.Event, _event(what, job.id, now)


def _attempt_rows(job: str, place: int, now: float) -> Iterator[tuple[type[SQLModel], dict[str, Any]]]:
    attempt, slot = job[:32], place % (WORKERS * SLOTS)
    worker = f"w{slot // SLOTS}"
    run = t.Run(id=attempt, worker=worker, slot=slot % SLOTS, state="closed", offered_at=now, delivery=attempt)
    yield t.Run, run.model_dump()
    packages = {"torch": "2.13.0", "transformers": "5.1.0", "llama-cpp-python": "0.3.36", "numpy": "2.3.4"}
    row = t.Attempt(id=attempt, job=job, run=attempt, worker=worker, state="accepted", offered_at=now)
    row.started_at, row.ended_at = now, now + SECONDS
    row.metrics = {"tokens_per_second": 1000.0}
    row.provenance = {"hardware_class": HARDWARE, "os": "Linux", "packages": packages}
    yield t.Attempt, row.model_dump()


def _event(what: str, job: str, now: float) -> dict[str, Any]:
    return {"at": now, "what": what, "job": job, "study": None, "attempt": None, "worker": None, "data": None}


def finish_stage(engine: Engine, study: str, stage: str) -> tuple[str, str]:
    """End all open jobs of a study's stage but one conversion, which is ready then. Returns its id and kind."""
    listing = t.StudyJob
    query = (
        select(t.Job.id, t.Job.kind, listing.base, listing.n, listing.seed)  # type: ignore[call-overload]
        .join(listing, col(listing.job) == col(t.Job.id))
        .where(listing.study == study, listing.stage == stage, t.Job.state != "done")
    )
    with writing(engine) as session:
        jobs = session.exec(query.order_by(t.Job.id)).all()
        last = next(job for job, kind, *_ in jobs if kind == "convert")
        records = [
            {"job": job, "attempt": job[:32], "item": item, "name": name, "value": value, "meta": None}
            for job, kind, base, n, seed in jobs
            for item, name, value in measure(kind, planner.Cell("bases", str(base), n, seed))
        ]
        session.connection().execute(insert(t.Record), records)
        ended = [job for job, *_ in jobs if job != last]
        states = update(t.Job).values(state="done", ended_at=START).where(col(t.Job.id).in_(ended))
        session.connection().execute(states)
        session.get_one(t.Job, last).state = "ready"
    return last, "convert"
