"""From the store to the scheduler and back: the ready jobs, the slots, what is known of both; and the offers."""

import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, Row
from sqlmodel import Session, col, func, select

from jsm_queue import lifecycle, logs, scheduler
from jsm_queue.costs import PRIOR, Costs
from jsm_queue.crashpoints import within
from jsm_queue.kinds import on_gpu
from jsm_queue.lifecycle.attempts import CHARGING
from jsm_queue.protocol import Bell
from jsm_queue.scheduler import Files, Offer, OpenSlot, ReadyJob
from jsm_queue.store import costs, places, queries, works
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from jsm_queue.store.works import Known, Listed

logger = logging.getLogger(__name__)

Ring = Callable[[str, str, Bell], None]
"""ring(worker, kind, bell): send the message; may raise when the broker is away."""

DISK_PAUSE_S = 60.0  # how long a worker that says nothing of its disk does not get a job again that filled it
JUDGE_PAUSES_S = (120.0, 600.0)  # after the first charge of a job whose judge is a server, after each further one
STAGES = ("scale", "bases", "quantization")
KIND_ORDER = ("prepare", "train", "score", "convert", "answer", "judge", "parity", "latency")
LOCATED = ("answer", "parity")  # kinds whose inputs are so big that it matters where they lie
FEW = 500  # new ready jobs that are read by their ids; more of them with all the others
LOCATED_JOBS = 2000  # with more ready ones every slot finds something anyway
ROOMY = 60e9  # bytes of disk with which nobody asks whether a job's inputs fit
AWAIT_S = 1800.0  # how long a job comes last for everyone but the worker that went away with more of it done
WORTH_S = 30.0  # how much more, in seconds of its work
LEAST_LEFT = 0.2  # of the time that it ran: what a run that takes longer than was thought will still take
FAR = 0.1  # of its way: from there on a run's own pace says how long it takes
FREEING_S = 2.0  # from a whole result to the report that its slot is free


def assign(engine: Engine, ring: Ring, now: float) -> None:
    """Offer ready jobs to the slots that are free, and ring. A queue that is away is asked once in a look."""
    with reading(engine) as session:
        learned = costs.learned(session)
        slots = open_slots(session, now, learned)
        if not any(slot.free for slot in slots):
            return
        offers = scheduler.assign(ready_jobs(session, now), slots, learned)
        labels = _labels(session, [offer.jobs[0] for offer in offers])
    for offer in offers:
        study, label = labels[offer.jobs[0]]
        run_id, attempt_ids = uuid.uuid4().hex, [uuid.uuid4().hex for _ in offer.jobs]
        with logs.about(study=study), writing(engine) as session:
            offered = lifecycle.offer(session, offer, run_id, attempt_ids, now)
        if offered:
            with within(offer.jobs[0]):
                if not _rings(ring, offer, Bell(run=run_id, attempts=offered, study=study, label=label)):
                    return


def _rings(ring: Ring, offer: Offer, bell: Bell) -> bool:
    try:
        ring(offer.worker, offer.kind, bell)
    except Exception as error:  # whatever the transport raises: the offer ends unclaimed and is made again
        logger.warning("the queue cannot be reached (%s); the offer of run %s will be made again", error, bell.run)
        return False
    return True


Kept = dict[Listed, tuple[ReadyJob, str | None]]
"""Listing → the job, and the name of its base."""

_kept: WeakKeyDictionary[Engine | Connection, Kept] = WeakKeyDictionary()
"""What the last look at a store read of jobs that are still ready: reading thousands anew takes seconds."""


def ready_jobs(session: Session, now: float) -> list[ReadyJob]:
    """The ready jobs of running studies, each with what the scheduler must know of it."""
    resting = resting_until(session, now)
    rows = [row for row in works.ready(session) if row.id not in resting]
    known = _known(session, {row.study for row in rows})
    excluded = _excluded(session, rows, now)
    located = places.of_inputs(session, LOCATED) if 0 < len(rows) <= LOCATED_JOBS else {}
    awaited = {row.job: row.worker for row in queries.gone_with(session, now - AWAIT_S) if _ahead_s(row) > WORTH_S}
    bases = _base_files(session, known)
    kept = _kept[session.get_bind()] = _read(session, rows, known, now)
    jobs: dict[str, ReadyJob] = {}
    for row in rows:
        job, base = kept[row]
        files = located.get(row.id, ())
        if job.base is not None and base in bases.get(row.study, {}):
            files = (*files, bases[row.study][base])
        job = _with(job, excluded.get(row.id, frozenset()), awaited.get(row.id), files)
        kept[row] = job, base
        other = jobs.get(row.id)
        if other is None or (-other.priority, other.order) > (-job.priority, job.order):
            jobs[row.id] = job
    return list(jobs.values())


def _read(session: Session, rows: Sequence[Listed], known: Mapping[str, Known], now: float) -> Kept:
    """What those listings stand for: as an earlier look read it, or from the store."""
    kept = _kept.get(session.get_bind(), {})
    new = {row.id for row in rows if row not in kept}
    read: Kept = {}
    for row in queries.ready_jobs(session, new if len(new) <= FEW else None) if new else ():
        listed = Listed(row.id, row.study, row.stage, row.cell, row.memory_needed, row.solo, row.priority)
        read[listed] = _ready_job(row, known.get(row.study), now), row.base
    return {row: kept[row] if row in kept else read[row] for row in rows}


def resting_until(session: Session, now: float) -> dict[str, float]:
    """Job → until when it is not offered, of judges behind a URL that crashed a moment ago: one outage of a server is
    not to use up all charges.
    """
    newest = (
        select(t.Job.id, t.Job.params, t.Job.charges, func.max(t.Attempt.ended_at))
        .join(t.Attempt, col(t.Attempt.job) == col(t.Job.id))
        .where(t.Job.state == "ready", t.Job.kind == "judge", t.Job.charges > 0)
        .where(col(t.Attempt.reason).in_(CHARGING))
        .group_by(t.Job.id)
    )
    until = {
        job: (ended or 0.0) + JUDGE_PAUSES_S[min(charges, len(JUDGE_PAUSES_S)) - 1]
        for job, params, charges, ended in session.exec(newest)
        if params.get("judge", {}).get("kind") == "openai"
    }
    return {job: end for job, end in until.items() if now < end}


def _ahead_s(row: Row[Any]) -> float:
    """Seconds of work that another worker would do again."""
    took = row.until - (row.started_at or row.until)
    return took * (row.position - row.kept) / max(1, row.position - row.began_at)


def _ready_job(row: Row[Any], known: Known | None, now: float) -> ReadyJob:
    order = (row.created_at, STAGES.index(row.stage), KIND_ORDER.index(row.kind), -(row.n or 0), row.seed or 0)
    base = known.bases.get(row.base) if known and "base" in row.params else None
    return ReadyJob(
        id=row.id,
        kind=row.kind,
        priority=row.priority,
        order=order,
        base=base,
        hardware=row.params.get("hardware"),
        exclusive=row.kind == "latency",
        gpu=on_gpu(row.kind, row.params),
        study=row.study,
        task=known.task(row.kind, row.params, row) if known else None,
        memory_needed=row.memory_needed,
        fuses=base if row.kind == "train" and not row.solo else None,
        since=min(now, row.listed_at),
    )


def _with(job: ReadyJob, excluded: frozenset[str], awaits: str | None, files: tuple[Files, ...]) -> ReadyJob:
    """The job with what may be another at each look; the same object where nothing is."""
    if (job.excluded, job.awaits, job.files) == (excluded, awaits, files):
        return job
    return replace(job, excluded=excluded, awaits=awaits, files=files)


def _known(session: Session, studies: Collection[str]) -> dict[str, Known]:
    rows = session.exec(select(t.Study).where(col(t.Study.id).in_(sorted(studies)))).all()
    return {row.id: known for row in rows if (known := works.known(row)) is not None}


def _base_files(session: Session, known: Mapping[str, Known]) -> dict[str, dict[str, Files]]:
    """Study → base → who has its files."""
    named = {f"{study} {name}": files for study, of in known.items() for name, files in of.files.items() if files}
    found: dict[str, dict[str, Files]] = defaultdict(dict)
    for name, files in places.of_bases(session, named).items() if named else ():
        study, _, base = name.partition(" ")
        found[study][base] = files
    return found


def _excluded(session: Session, rows: Sequence[Listed], now: float) -> dict[str, frozenset[str]]:
    """Job → the workers whose disk it filled, or that are too small for its inputs whatever they remove for them."""
    found: dict[str, set[str]] = defaultdict(set)
    for job, worker in queries.full_disks(session, now - DISK_PAUSE_S):
        found[job].add(worker)
    small = {
        w.id: w.disk_free for w in queries.live_workers(session, now) if w.disk_free is not None and w.disk_free < ROOMY
    }
    if small and 0 < len(rows) <= LOCATED_JOBS:
        cached = places.cached_bytes(session, small)
        for job, needed in queries.input_bytes(session, {row.id for row in rows}).items():
            found[job] |= {worker for worker, left in small.items() if needed > left + cached.get(worker, 0)}
    return {job: frozenset(workers) for job, workers in found.items() if workers}


def open_slots(session: Session, now: float, learned: Costs = PRIOR) -> list[OpenSlot]:
    """The slots of live workers that take new jobs."""
    rows = queries.slots(session, now)
    running: dict[tuple[str, int], dict[str, Row[Any]]] = defaultdict(dict)
    for row in queries.open_attempts(session):
        running[row.worker, row.slot].setdefault(row.id, row)
    known = _known(session, {row.study for runs in running.values() for row in runs.values() if row.study})
    return [
        _open_slot(slot, worker, running.get((worker.id, slot.idx), {}), known, learned, now) for slot, worker in rows
    ]


def _open_slot(
    slot: t.Slot, worker: t.Worker, runs: Mapping[str, Row[Any]], known: Mapping[str, Known], learned: Costs, now: float
) -> OpenSlot:
    hardware = worker.hardware or {}
    here = OpenSlot(
        worker=worker.id,
        idx=slot.idx,
        kind=slot.kind,
        free=slot.free and not runs,
        hardware=hardware.get("hardware_class", ""),
        warm_base=slot.warm_base,
        exclusive_run=any(row.kind == "latency" for row in runs.values()),
        speed=works.slot_class(slot.kind, slot.idx, hardware),
        memory_free=slot.vram_free,
        memory_total=slot.vram_total,
        study=min((row.study for row in runs.values() if row.study), default=None),
        hold=slot.hold,
        lacks=tuple(sorted((hardware.get("lacks") or {}).items())),
        fuses=hardware.get("fuses", 1) if slot.kind == "gpu" else 1,
        name=worker.name,
    )
    return replace(here, busy_s=_busy_s(here, runs, known, learned, now)) if runs else here


def _busy_s(
    slot: OpenSlot, runs: Mapping[str, Row[Any]], known: Mapping[str, Known], learned: Costs, now: float
) -> float | None:
    """How long the run will still take; None where nobody knows."""
    total = 0.0
    for row in runs.values():
        study = known.get(row.study or "")
        if row.paused or row.state == "suspect" or study is None or slot.speed is None:
            return None
        if row.state != "delivering":
            whole = learned.seconds(study.task(row.kind, row.params, row), slot.speed)
            total += remaining(
                whole, max(0.0, now - (row.started_at or row.offered_at)), row.began_at, row.position, row.total
            )
    return total or FREEING_S


def remaining(whole: float, elapsed: float, began_at: int, position: int, total: int) -> float:
    """Seconds that an attempt still takes that was thought to take `whole`: at its own pace once it is far enough, or
    has taken longer than was thought. Until then its pace counts the more the further it is.
    """
    done, all_of_it = position - began_at, total - began_at
    thought = max(whole - elapsed, LEAST_LEFT * elapsed)
    if done <= 0 or total < position:  # nothing yet, or a worker that does not say how much there is
        return thought
    weight = 1.0 if elapsed >= whole else min(1.0, done / (FAR * all_of_it))
    return weight * elapsed * (total - position) / done + (1 - weight) * thought


def _labels(session: Session, jobs: list[str]) -> dict[str, tuple[str, str]]:
    """job → (study's name, label), for the message that people see in Flower."""
    found = {}
    for job_id in jobs:
        listing = queries.first_listing(session, job_id)
        study = session.get_one(t.Study, listing.study)
        job = session.get_one(t.Job, job_id)
        found[job_id] = (study.name, queries.label(job.kind, listing.cell))
    return found
