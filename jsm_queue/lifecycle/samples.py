"""What an attempt teaches of its kind's cost: how long an accepted one took, and how much memory was too little.

The figures are the worker's own. One that cannot be true, as it is longer than the api waited, is not believed.
"""

import math

from sqlmodel import Session, col, func, select

from jsm_queue import protocol
from jsm_queue.costs import prior_seconds
from jsm_queue.store import tables as t
from jsm_queue.store.costs import add_sample
from jsm_queue.store.works import slot_class, work_of

SMALLEST_PLAN = 2  # ooms after which a smaller plan gains little: a slot with more memory is looked for
MORE = 1.05  # times what was free and too little


def note_accepted(session: Session, job: t.Job, attempt: t.Attempt, result: protocol.ResultRequest, now: float) -> None:
    """One that ran from its beginning, alone in its run, and says how long."""
    seconds = _seconds(result, attempt, now)
    resumed = attempt.began_at or result.provenance.get("resumed_from")
    if seconds is None or resumed or _beside(session, attempt):
        return
    work = work_of(session, job)
    if work is None:
        return
    run, worker = session.get_one(t.Run, attempt.run), session.get_one(t.Worker, attempt.worker)
    kind = "gpu" if str(result.provenance.get("device", "cpu")).startswith("cuda") else "cpu"
    slot = slot_class(kind, run.slot, worker.hardware)
    peak = int(max(0.0, result.metrics.get("peak_bytes", 0.0))) if kind == "gpu" else 0
    add_sample(
        session,
        t.CostSample(
            attempt=attempt.id,
            kind=job.kind,
            base=work.base,
            gpu=slot.name,
            work=prior_seconds(work, slot),
            seconds=seconds,
            peak_bytes=min(peak, 2**53),
            at=now,
        ),
    )


def _seconds(result: protocol.ResultRequest, attempt: t.Attempt, now: float) -> float | None:
    """What its runner took; the api's own clock says how long that can have been at most."""
    said = result.provenance.get("seconds")
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
        return None
    longest = now - attempt.started_at if attempt.started_at is not None else 0.0
    return float(said) if 0 < said <= longest + 1 else None


def _beside(session: Session, attempt: t.Attempt) -> bool:
    own = select(func.count()).select_from(t.Attempt).where(t.Attempt.run == attempt.run)
    return session.exec(own).one() > 1


def raise_memory(session: Session, job: t.Job, attempt: t.Attempt, now: float) -> None:
    """After `SMALLEST_PLAN` ooms the job needs more than its slot had free, where any known worker has more."""
    needed = int(MORE * attempt.memory_free) + 1
    if job.ooms < SMALLEST_PLAN or not attempt.memory_free or needed <= job.memory_needed:
        return
    run = session.get_one(t.Run, attempt.run)
    slot = session.get(t.Slot, (attempt.worker, run.slot))
    if slot is None or largest_slot(session, slot.kind) < needed:
        return
    job.memory_needed = needed
    work, worker = work_of(session, job), session.get_one(t.Worker, attempt.worker)
    gpu = slot_class(slot.kind, slot.idx, worker.hardware).name
    base = work.base if work else None
    add_sample(
        session,
        t.CostSample(
            attempt=attempt.id, kind=job.kind, base=base, gpu=gpu, work=0.0, seconds=0.0, peak_bytes=needed, at=now
        ),
    )


def largest_slot(session: Session, kind: str) -> int:
    """Bytes of the largest slot of that kind that any worker has, away or not."""
    sizes = select(func.max(t.Slot.vram_total), func.max(t.Slot.vram_free)).where(col(t.Slot.kind) == kind)
    return max((size or 0 for size in session.exec(sizes).one()), default=0)


def room(session: Session, attempt: t.Attempt) -> str:
    """What the last slot had free and what the largest there is has, in words; "" where that is not known."""
    slot = session.get(t.Slot, (attempt.worker, session.get_one(t.Run, attempt.run).slot))
    if slot is None or not attempt.memory_free:
        return ""
    largest = max(largest_slot(session, slot.kind), attempt.memory_free)
    return f" (the last slot had {attempt.memory_free / 1e9:.1f} GB free, the largest has {largest / 1e9:.1f} GB)"
