"""Workers: joining, saying hello, staying alive, being given up."""

from collections.abc import Sequence

from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from jsm_queue import protocol
from jsm_queue.errors import GoneError
from jsm_queue.lifecycle.attempts import check_session, deliverable, end_attempt, revive_suspect
from jsm_queue.lifecycle.jobs import bump_control, set_job
from jsm_queue.store import tables as t
from jsm_queue.store.events import log


def join(session: Session, invite: t.Token, worker_id: str, name: str, token_hash: str, now: float) -> None:
    """A new worker; its invite is used up."""
    invite.used_at = now
    session.add(t.Worker(id=worker_id, name=name, token_hash=token_hash, joined_at=now))
    session.flush()
    log(session, now, "worker joined", worker=worker_id, data={"name": name})


def set_worker_state(session: Session, worker: t.Worker, state: str, now: float) -> None:
    """active ↔ paused ↔ draining, as people want it; any → removed, whose token and session are good for nothing.

    What a removed worker ran is lost at once. A removed worker stays so: it joins anew with another invite.
    """
    if worker.state in (state, "removed"):
        return
    worker.state = state
    log(session, now, f"worker {state}", worker=worker.id)
    if state == "removed":
        worker.lease_until, worker.broker_secret_hash = 0.0, None
        _end_all(session, worker, frozenset(), frozenset(), "its worker was removed", now)
        _forget_slots(session, worker)
    bump_control(session)


def hello(session: Session, worker: t.Worker, request: protocol.HelloRequest, lease_s: float, now: float) -> list[str]:
    """A session begins. What the old one ran is lost at once, what it finished is still to be delivered, and what goes
    on as the worker's process is the same goes on.

    Returns the attempts of those that the worker named whose results would not be accepted.
    """
    if worker.boot_id == request.boot_id:
        raise GoneError("This boot id said hello before", "Make a new one at every start")
    worker.boot_id, worker.hello_at, worker.lease_until = request.boot_id, now, now + lease_s
    worker.hardware = request.hardware.model_dump(mode="json")
    log(session, now, "worker hello", worker=worker.id)
    kept = frozenset(request.running)
    _end_all(session, worker, frozenset(request.undelivered), kept, "its worker started anew", now)
    _forget_slots(session, worker, kept)
    session.add_all(_slot(worker.id, report) for report in request.slots)
    _locate(session, worker.id, request.holds)
    return [attempt for attempt in request.undelivered + request.running if not deliverable(session, attempt)]


def _end_all(
    session: Session, worker: t.Worker, held: frozenset[str], kept: frozenset[str], why: str, now: float
) -> None:
    """What the old session ran is lost; the attempts `held`, whose results are whole on its disk, are delivering; those
    `kept` stay as they are.
    """
    live = select(t.Attempt).where(t.Attempt.worker == worker.id, col(t.Attempt.state).in_(t.LIVE))
    for attempt in session.exec(live).all():
        if attempt.state == "offered":
            end_attempt(session, attempt, "unclaimed", why, "", now)
        elif attempt.id in held:
            _delivering(session, attempt, now)
        elif attempt.id not in kept:
            end_attempt(session, attempt, "lost", why, "", now)


def _forget_slots(session: Session, worker: t.Worker, kept: frozenset[str] = frozenset()) -> None:
    """Its slots, and its runs but for those of the attempts `kept` that are live."""
    session.flush()
    going_on = select(t.Attempt.run).where(col(t.Attempt.id).in_(kept), col(t.Attempt.state).in_(t.LIVE))
    open_runs = update(t.Run).where(col(t.Run.worker) == worker.id, col(t.Run.state) != "closed")
    session.connection().execute(open_runs.where(col(t.Run.id).not_in(going_on)).values(state="closed"))
    for slot in session.exec(select(t.Slot).where(t.Slot.worker == worker.id)).all():
        session.delete(slot)
    session.flush()


def _locate(session: Session, worker: str, holds: Sequence[str]) -> None:
    """Which artifacts this worker has: those that it says, and no others."""
    session.connection().execute(delete(t.ArtifactAt).where(col(t.ArtifactAt.worker) == worker))
    session.add_all(t.ArtifactAt(sha=sha, worker=worker) for sha in dict.fromkeys(holds))
    session.flush()


def _slot(worker: str, report: protocol.SlotReport) -> t.Slot:
    return t.Slot(worker=worker, **report.model_dump(exclude={"run"}))


def heartbeat(
    session: Session, worker: t.Worker, request: protocol.HeartbeatRequest, lease_s: float, now: float
) -> bool:
    """Renews the lease; closes the runs whose slots are free, ends what the worker dropped without a word.

    Returns whether a slot became free.
    """
    check_session(worker, request.boot_id)
    worker.lease_until, worker.disk_free = now + lease_s, request.disk_free
    freed = False
    for report in request.slots:
        session.merge(_slot(worker.id, report))
        if report.free and report.run:
            run = session.get(t.Run, report.run)
            if run is not None and run.worker == worker.id and run.state == "claimed":
                run.state, freed = "closed", True
    for seen in request.attempts:
        _note(session, worker, seen, now)
    _end_forgotten(session, worker, {seen.attempt for seen in request.attempts}, now)
    return freed


def leave(session: Session, worker: t.Worker, boot_id: str, now: float) -> None:
    """Ends the lease: what this worker could not give back others may take at once."""
    check_session(worker, boot_id)
    worker.lease_until = now
    log(session, now, "worker left", worker=worker.id)


def _note(session: Session, worker: t.Worker, seen: protocol.AttemptReport, now: float) -> None:
    attempt = session.get(t.Attempt, seen.attempt)
    if attempt is None or attempt.worker != worker.id or attempt.state not in ("running", "delivering", "suspect"):
        return
    attempt.position, attempt.total, attempt.metrics = seen.position, seen.total, dict(seen.metrics)
    attempt.paused = seen.paused
    revive_suspect(session, attempt, seen.phase, now)
    if seen.phase == "delivering":
        _delivering(session, attempt, now)


def _delivering(session: Session, attempt: t.Attempt, now: float) -> None:
    """running | suspect → delivering: its result is whole on the worker's disk."""
    revive_suspect(session, attempt, "delivering", now)
    if attempt.state == "running":
        attempt.state = "delivering"
        log(session, now, "attempt delivering", job=attempt.job, attempt=attempt.id, worker=attempt.worker)


def _end_forgotten(session: Session, worker: t.Worker, held: set[str], now: float) -> None:
    """Ends what the store believes to run although its slot is free and its worker does not hold it any more."""
    claimed = (
        select(t.Attempt)
        .join(t.Run, col(t.Run.id) == col(t.Attempt.run))
        .where(t.Attempt.worker == worker.id, col(t.Attempt.state).in_(("running", "delivering", "suspect")))
        .where(t.Run.state == "closed")
    )
    for attempt in session.exec(claimed).all():
        if attempt.id not in held:
            end_attempt(session, attempt, "lost", "its worker does not hold it any more", "", now)


def shorten_leases(session: Session, lease_s: float, now: float) -> None:
    """The clock was set back: a lease that was granted before it would be believed for as long as that took."""
    latest = now + lease_s
    late = update(t.Worker).where(col(t.Worker.lease_until) > latest)
    session.exec(late.values(lease_until=latest).execution_options(synchronize_session="fetch"))


def reap(session: Session, offer_s: float, now: float, leases: bool) -> int:
    """Ends offers that nobody claimed in time and, with `leases`, suspects the attempts of workers whose lease expired.

    Returns how many attempts it changed.
    """
    live = select(t.Attempt, t.Worker).join(t.Worker, col(t.Worker.id) == col(t.Attempt.worker))
    changed = 0
    for attempt, worker in session.exec(
        live.where(col(t.Attempt.state).in_(("offered", "running", "delivering")))
    ).all():
        due = not attempt.offered_at <= now <= attempt.offered_at + offer_s  # also after the clock was set back
        if attempt.state == "offered" and due:
            end_attempt(session, attempt, "unclaimed", "nobody claimed the offer", "", now)
        elif leases and attempt.state != "offered" and worker.lease_until < now:
            _suspect(session, attempt, now)
        else:
            continue
        changed += 1
    return changed


def _suspect(session: Session, attempt: t.Attempt, now: float) -> None:
    """running | delivering → suspect, its job → ready: replaceable, and as long as nobody replaces it not lost."""
    attempt.state = "suspect"
    session.flush()
    log(session, now, "attempt suspect", job=attempt.job, attempt=attempt.id, worker=attempt.worker)
    job = session.get_one(t.Job, attempt.job)
    if job.state == "active":
        set_job(session, job, "ready", now)
