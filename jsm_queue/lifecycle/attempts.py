"""Offers, claims, results and ends: the states of runs and attempts."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import CursorResult, func, update
from sqlmodel import Session, col, select

from jsm_queue import protocol
from jsm_queue.errors import ConflictError, EpochError, GoneError
from jsm_queue.kinds import KINDS
from jsm_queue.lifecycle.files import require_whole
from jsm_queue.lifecycle.jobs import bump_control, give_up, set_job, swap_state, wake_dependents
from jsm_queue.lifecycle.samples import note_accepted, raise_memory, room
from jsm_queue.scheduler import Offer
from jsm_queue.store import tables as t
from jsm_queue.store.database import insert_or_ignore
from jsm_queue.store.events import log

MAX_CHARGES = 3  # crashed or stalled attempts, on at least two workers or on every live one, until quarantine
MAX_LOST = 5  # attempts lost in a row without a new checkpoint until quarantine
MAX_OOMS = 4  # attempts that ran out of memory, each with a smaller plan, until the job failed
CHARGING = ("crashed", "stalled")


def check_session(worker: t.Worker, boot_id: str) -> None:
    """Raises GoneError when a newer session of this worker said hello, EpochError when none did in this store."""
    if worker.boot_id is None:
        raise EpochError("The store was restored: no session of this worker is known", "Say hello again")
    if worker.boot_id != boot_id:
        raise GoneError("This session was superseded by a newer one of the same worker", "Start the worker only once")


def offer(session: Session, choice: Offer, run_id: str, attempt_ids: Sequence[str], now: float) -> list[str]:
    """ready → active, with a run and an attempt a job offered to a slot.

    Returns the attempts: fewer where jobs were not ready any more, none where the slot was not free. A suspect attempt
    of a job is lost now that it has a successor. A compare-and-set under the unique indexes, so two coordinators cannot
    bind one job or one slot twice.
    """
    worker = session.get_one(t.Worker, choice.worker)
    if worker.state != "active" or _slot_taken(session, choice):
        return []
    slot = session.get(t.Slot, (choice.worker, choice.slot))
    offered: list[str] = []
    for job_id, attempt_id in zip(choice.jobs, attempt_ids, strict=True):
        _end_suspect(session, job_id, now)
        if not swap_state(session, job_id, "ready", "active"):
            continue
        if not offered:
            session.add(t.Run(id=run_id, worker=worker.id, slot=choice.slot, state="offered", offered_at=now))
            session.flush()
        job = session.get_one(t.Job, job_id)
        attempt = t.Attempt(id=attempt_id, job=job.id, run=run_id, worker=worker.id, state="offered", offered_at=now)
        attempt.began_at, attempt.disk_free = job.position, worker.disk_free
        attempt.memory_free = slot.vram_free if slot else 0
        session.add(attempt)
        session.flush()
        log(session, now, "attempt offered", job=job_id, attempt=attempt_id, worker=choice.worker)
        offered.append(attempt_id)
    return offered


def _slot_taken(session: Session, choice: Offer) -> bool:
    open_runs = (
        select(func.count())
        .select_from(t.Run)
        .where(t.Run.worker == choice.worker, t.Run.slot == choice.slot, t.Run.state != "closed")
    )
    return session.exec(open_runs).one() > 0


def _end_suspect(session: Session, job_id: str, now: float) -> None:
    suspects = select(t.Attempt).where(t.Attempt.job == job_id, t.Attempt.state == "suspect")
    for suspect in session.exec(suspects).all():
        end_attempt(session, suspect, "lost", "its worker's lease expired, and another takes over", "", now)
        bump_control(session)


def claim(
    session: Session, run_id: str, worker: t.Worker, request: protocol.ClaimRequest, now: float
) -> tuple[t.Run, list[t.Attempt]]:
    """offered → claimed, its attempts → running. The same delivery gets the same answer again."""
    check_session(worker, request.boot_id)
    run = session.get(t.Run, run_id)
    if run is None or run.worker != worker.id:
        raise ConflictError(f"Run {run_id} is not this worker's", "Drop the message")
    attempts = list(session.exec(select(t.Attempt).where(t.Attempt.run == run_id)))
    if run.state == "claimed" and run.delivery == request.delivery:
        return run, [attempt for attempt in attempts if attempt.state in t.LIVE]
    if run.state != "offered" or not any(attempt.state == "offered" for attempt in attempts):
        raise ConflictError(f"Run {run_id} is {run.state} by now", "Drop the message")
    run.state, run.delivery = "claimed", request.delivery
    for attempt in attempts:
        attempt.state, attempt.started_at = "running", now
        log(session, now, "attempt running", job=attempt.job, attempt=attempt.id, worker=worker.id)
    return run, attempts


def deliverable(session: Session, attempt_id: str) -> bool:
    """Whether a complete result of this attempt would be accepted."""
    attempt = session.get(t.Attempt, attempt_id)
    if attempt is None:
        return False
    done = session.get_one(t.Job, attempt.job).state == "done"
    held = attempt.state in ("running", "delivering", "suspect")  # who never claimed it cannot have a result
    return not done and (held or attempt.reason in ("lost", "cancelled"))


def accept(session: Session, attempt_id: str, worker_id: str, result: protocol.ResultRequest, now: float) -> bool:
    """A complete result: records, metrics and artifacts enter, the job is done, what waited for it may be ready.

    Returns False for a replay. Raises ConflictError when the job is done by another attempt or an artifact is missing.
    """
    attempt = _own_attempt(session, attempt_id, worker_id)
    if attempt.state == "accepted":
        return False
    job = session.get_one(t.Job, attempt.job)
    if not deliverable(session, attempt_id):
        raise ConflictError(f"Attempt {attempt_id} was replaced: its job is {job.state}", "Drop the result")
    _require_outputs(session, job, result, now)
    won = (
        update(t.Job)
        .where(col(t.Job.id) == job.id, col(t.Job.accepted_attempt).is_(None))
        .values(accepted_attempt=attempt_id)
    )
    if cast(CursorResult[Any], session.connection().execute(won)).rowcount != 1:
        raise ConflictError(f"Job {job.id} has an accepted result", "Drop the result")
    session.refresh(job)
    _enter(session, job.id, attempt_id, result)
    for sha in {artifact.sha for artifact in result.artifacts}:
        insert_or_ignore(session, t.ArtifactAt(sha=sha, worker=worker_id))
    _supersede(session, job.id, attempt_id, now)
    note_accepted(session, job, attempt, result, now)
    attempt.state, attempt.reason, attempt.ended_at, attempt.provenance = (
        "accepted",
        None,
        now,
        result.provenance,
    )
    job.error = None
    set_job(session, job, "done", now)
    log(session, now, "attempt accepted", job=job.id, attempt=attempt_id, worker=worker_id)
    wake_dependents(session, job.id, now)
    return True


def _own_attempt(session: Session, attempt_id: str, worker_id: str) -> t.Attempt:
    attempt = session.get(t.Attempt, attempt_id)
    if attempt is None or attempt.worker != worker_id:
        raise ConflictError(f"Attempt {attempt_id} is not this worker's", "Drop it")
    return attempt


def _require_outputs(session: Session, job: t.Job, result: protocol.ResultRequest, now: float) -> None:
    roles = {artifact.role for artifact in result.artifacts}
    if roles != set(KINDS[job.kind].outputs):
        raise ConflictError(
            f"A {job.kind} result has {sorted(roles)}, expected {sorted(KINDS[job.kind].outputs)}",
            "Update the worker",
        )
    for artifact in result.artifacts:
        require_whole(session, artifact.sha, now)


def _enter(session: Session, job_id: str, attempt_id: str, result: protocol.ResultRequest) -> None:
    session.add_all(t.ArtifactRef(job=job_id, role=a.role, sha=a.sha) for a in result.artifacts)
    session.add_all(t.Metric(job=job_id, name=name, value=value) for name, value in result.metrics.items())
    session.add_all(
        t.Record(job=job_id, attempt=attempt_id, item=r.item, name=r.name, value=r.value, meta=r.meta)
        for r in result.records
    )
    session.flush()


def _supersede(session: Session, job_id: str, winner: str, now: float) -> None:
    live = select(t.Attempt).where(t.Attempt.job == job_id, t.Attempt.id != winner, col(t.Attempt.state).in_(t.LIVE))
    for other in session.exec(live).all():
        other.state, other.reason, other.ended_at = "ended", "superseded", now
        _close_offer(session, other)
        log(session, now, "attempt ended", job=job_id, attempt=other.id, data={"reason": "superseded"})
        bump_control(session)
    session.flush()


def _close_offer(session: Session, attempt: t.Attempt) -> None:
    """A run that nobody claimed has no worker that could report its slot free."""
    run = session.get_one(t.Run, attempt.run)
    if run.state == "offered":
        run.state = "closed"


def checkpoint(
    session: Session, attempt_id: str, worker_id: str, request: protocol.CheckpointRequest, now: float
) -> None:
    """What lets a later attempt go on from `position`; the job keeps its two newest. It revives a suspect attempt.

    A replay changes nothing. Raises ConflictError from a replaced attempt, and for a position that is not new.
    """
    attempt = _own_attempt(session, attempt_id, worker_id)
    job = session.get_one(t.Job, attempt.job)
    if attempt.state not in ("running", "delivering", "suspect"):
        raise ConflictError(f"Attempt {attempt_id} is {attempt.state} ({attempt.reason}) by now", "Drop it")
    if (request.sha, request.position) == (job.checkpoint, job.position):
        return
    if request.position <= job.position:
        raise ConflictError(f"Job {job.id} has a checkpoint at {job.position}, not before {request.position}", "Go on")
    require_whole(session, request.sha, now)
    revive_suspect(session, attempt, "running", now)
    job.checkpoint_prev, job.position_prev = job.checkpoint, job.position
    job.checkpoint, job.position, job.losses = request.sha, request.position, 0
    session.flush()
    log(session, now, "checkpoint", job=job.id, attempt=attempt_id, worker=worker_id, data={"position": job.position})


def revive_suspect(session: Session, attempt: t.Attempt, phase: str, now: float) -> None:
    """suspect → running | delivering, its job ready → active: its worker is heard of again, and nobody took over."""
    if attempt.state == "suspect" and swap_state(session, attempt.job, "ready", "active"):
        attempt.state = phase
        session.flush()
        log(session, now, f"attempt {phase}", job=attempt.job, attempt=attempt.id, worker=attempt.worker)


def end(session: Session, attempt_id: str, worker_id: str, request: protocol.EndRequest, now: float) -> None:
    """The worker says that an attempt ended without a result. A replay changes nothing."""
    attempt = _own_attempt(session, attempt_id, worker_id)
    if attempt.state in t.LIVE:
        end_attempt(session, attempt, request.reason, request.message, request.log_tail, now)
    elif attempt.state != "ended" or attempt.reason != request.reason:
        raise ConflictError(f"Attempt {attempt_id} is {attempt.state} ({attempt.reason}) by now", "Drop it")


def end_attempt(session: Session, attempt: t.Attempt, reason: str, message: str, log_tail: str, now: float) -> None:
    """Any live state → ended(reason), and what that means for the job."""
    attempt.state, attempt.reason, attempt.ended_at = "ended", reason, now
    attempt.message, attempt.log_tail = message, log_tail
    _close_offer(session, attempt)
    session.flush()
    log(
        session,
        now,
        "attempt ended",
        job=attempt.job,
        attempt=attempt.id,
        worker=attempt.worker,
        data={"reason": reason, "message": message},
    )
    job = session.get_one(t.Job, attempt.job)
    if job.state not in ("active", "ready"):  # ready: the attempt was suspect
        return
    _charge(session, job, attempt, reason)
    if reason == "oom":
        raise_memory(session, job, attempt, now)
        message += room(session, attempt)
    verdict = _given_up(session, job, reason, message, now)
    if verdict:
        give_up(session, job, *verdict, now)
    elif job.state == "active":
        set_job(session, job, "ready", now)


def _charge(session: Session, job: t.Job, attempt: t.Attempt, reason: str) -> None:
    """What an end counts for. In a fused run nobody knows whose fault it was: each job runs alone from then on."""
    if reason != "unclaimed":  # says nothing of the job
        job.losses = job.losses + 1 if reason == "lost" else 0
    if reason in (*CHARGING, "oom") and _fused(session, attempt):
        job.solo = True
        return
    job.ooms += reason == "oom"
    if reason in CHARGING:
        job.charges, job.charged = job.charges + 1, [*(job.charged or []), attempt.worker]
        if job.position <= attempt.began_at:  # the checkpoint that it began from may be what breaks it
            job.checkpoint, job.position = job.checkpoint_prev, job.position_prev
            job.checkpoint_prev, job.position_prev = None, 0


def _fused(session: Session, attempt: t.Attempt) -> bool:
    beside = select(func.count()).select_from(t.Attempt).where(t.Attempt.run == attempt.run)
    return session.exec(beside).one() > 1


def _given_up(session: Session, job: t.Job, reason: str, message: str, now: float) -> tuple[str, str] | None:
    """(state, error) of a job that is not tried again after such an end."""
    if reason == "error":
        return "failed", message or "error"
    if reason == "oom" and job.ooms >= MAX_OOMS:
        return "failed", f"out of memory {job.ooms} times, each time with a smaller plan: {message}"
    if reason in CHARGING and job.charges >= MAX_CHARGES and _charged_widely(session, job, now):
        return "quarantined", f"{reason} {job.charges} times: {message}"
    if job.losses >= MAX_LOST:
        return "quarantined", f"its worker was lost {MAX_LOST} times in a row"
    return None


def _charged_widely(session: Session, job: t.Job, now: float) -> bool:
    """On two workers, or on every live one that may run it."""
    charged, needed = set(job.charged or []), job.params.get("hardware")
    live = session.exec(select(t.Worker).where(t.Worker.lease_until > now)).all()
    capable = {worker.id for worker in live if needed in (None, (worker.hardware or {}).get("hardware_class"))}
    return len(charged) >= 2 or capable <= charged
