"""The only place that changes a study's, job's, run's or attempt's state.

Every function takes the session of an open write transaction (`store.database.writing`) and the time, changes states
and writes an event for each change; the caller commits. What came too late or from a replaced attempt raises
ConflictError and changes nothing.

    job      waiting → ready → active → done | failed | quarantined;   waiting → skipped;   active → ready
    run      offered → claimed → closed
    attempt  offered → running → delivering → accepted;   any of them → ended(reason)
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

from sqlalchemy import CursorResult, func, update
from sqlmodel import Session, col, select

from jsm_queue import protocol
from jsm_queue.canonical import content_hash
from jsm_queue.crashpoints import reach
from jsm_queue.errors import ConflictError, GoneError
from jsm_queue.kinds import KINDS, JobDraft
from jsm_queue.planner import Wanted
from jsm_queue.scheduler import Offer
from jsm_queue.store import tables as t
from jsm_queue.store.database import insert_or_ignore
from jsm_queue.store.events import log
from jsm_queue.verdicts import RULES_VERSION, Verdict

MAX_CHARGES = 3  # crashed or stalled attempts, on at least two workers or on every live one, until quarantine
MAX_LOST = 5  # attempts lost in a row until quarantine
CHARGING = ("crashed", "stalled", "oom")
DEAD = ("failed", "quarantined", "skipped")


# ---- studies -------------------------------------------------------------------------------------------------------


def add_study(session: Session, spec: dict[str, Any], inputs: dict[str, Any], now: float) -> tuple[t.Study, bool]:
    """The study of that spec, and whether it is new. One that was cancelled runs again."""
    study_id = content_hash({"spec": spec, "inputs": {k: v for k, v in inputs.items() if k != "facts"}})
    study = session.get(t.Study, study_id)
    if study is None:
        study = t.Study(id=study_id, name=spec["name"], spec=spec, inputs=inputs, state="running", created_at=now)
        session.add(study)
        session.flush()
        log(session, now, "study running", study=study_id)
        return study, True
    if study.state in ("cancelled", "paused"):
        study.state, study.ended_at = "running", None
        log(session, now, "study running", study=study_id)
        _revive(session, _jobs_of(session, study_id), now)
        _bump_control(session)
    return study, False


def cancel_study(session: Session, study: t.Study, now: float) -> None:
    """running | paused → cancelled: its jobs are unwanted unless another study lists them."""
    if study.state in ("running", "paused"):
        study.state, study.ended_at = "cancelled", now
        log(session, now, "study cancelled", study=study.id)
        _bump_control(session)


def end_study(session: Session, study_id: str, now: float) -> None:
    """running → ended: all its stages are decided and all its jobs terminal."""
    changed = session.connection().execute(
        update(t.Study).where(col(t.Study.id) == study_id, col(t.Study.state) == "running").values(state="ended", ended_at=now)
    )
    if changed.rowcount:
        log(session, now, "study ended", study=study_id)


def list_jobs(session: Session, study_id: str, wanted: Iterable[Wanted], now: float) -> int:
    """Add the jobs that the study wants and does not list yet. Returns how many of its listings are new."""
    listed = 0
    for item in wanted:
        known = session.get(t.Job, item.job.id)
        if known is None:
            _add_job(session, item.job, now)
        cell = item.cell
        row = t.StudyJob(
            study=study_id,
            job=item.job.id,
            stage=item.stage,
            cell=cell.label if cell else "",
            base=cell.base if cell else None,
            n=cell.n if cell else None,
            seed=cell.seed if cell else None,
            format=cell.format if cell else None,
            reused=known is not None and known.state == "done",
        )
        if insert_or_ignore(session, row):
            listed += 1
            if known is not None and known.state in DEAD and not _listed_before(session, study_id, item.job.id):
                _revive(session, [known], now)
    return listed


def write_verdict(session: Session, study_id: str, stage: str, verdict: Verdict, now: float) -> None:
    """A stage's verdict, written once; a second one of the same look is ignored."""
    row = t.VerdictRow(
        study=study_id,
        stage=stage,
        look=1,
        decision=verdict.decision,
        evidence=verdict.evidence,
        rules_version=RULES_VERSION,
        created_at=now,
    )
    if insert_or_ignore(session, row):
        log(session, now, "verdict", study=study_id, data={"stage": stage, "decision": verdict.decision})


# ---- jobs ----------------------------------------------------------------------------------------------------------


def _add_job(session: Session, job: JobDraft, now: float) -> None:
    needs = [session.get_one(t.Job, need) for need in job.needs.values()]
    state = "waiting"
    if all(need.state == "done" for need in needs):
        state = "ready"
    elif any(need.state in DEAD for need in needs):
        state = "skipped"
    session.add(t.Job(id=job.id, kind=job.kind, params=job.params, state=state, created_at=now))
    session.flush()
    session.add_all(t.JobNeed(job=job.id, name=name, needs=need) for name, need in job.needs.items())
    session.flush()
    log(session, now, f"job {state}", job=job.id)


def _jobs_of(session: Session, study_id: str) -> list[t.Job]:
    query = select(t.Job).where(col(t.Job.id).in_(select(t.StudyJob.job).where(t.StudyJob.study == study_id)))
    return list(session.exec(query.order_by(col(t.Job.created_at))))


def _listed_before(session: Session, study_id: str, job_id: str) -> bool:
    """Whether the study lists the job for another cell too: then its failure is this study's own."""
    query = select(func.count()).select_from(t.StudyJob).where(t.StudyJob.study == study_id, t.StudyJob.job == job_id)
    return session.exec(query).one() > 1


def _revive(session: Session, jobs: Sequence[t.Job], now: float) -> None:
    """failed | quarantined → ready, what was skipped for them → waiting: a new study lists them, or a cancelled one goes on."""
    for job in jobs:
        if job.state in ("failed", "quarantined"):
            job.charges, job.error, job.ended_at = 0, None, None
            _set_job(session, job, "ready", now)
            _unskip(session, job.id, now)


def _set_job(session: Session, job: t.Job, state: str, now: float) -> None:
    job.state = state
    if state in ("done", *DEAD):
        job.ended_at = now
    session.flush()
    log(session, now, f"job {state}", job=job.id)


def _needs_done(session: Session, job_id: str) -> bool:
    query = (
        select(func.count())
        .select_from(t.JobNeed)
        .join(t.Job, col(t.Job.id) == col(t.JobNeed.needs))
        .where(t.JobNeed.job == job_id, t.Job.state != "done")
    )
    return session.exec(query).one() == 0


def _dependents(session: Session, job_id: str, state: str) -> list[t.Job]:
    query = select(t.Job).join(t.JobNeed, col(t.JobNeed.job) == col(t.Job.id)).where(t.JobNeed.needs == job_id, t.Job.state == state)
    return list(session.exec(query))


def _give_up(session: Session, job: t.Job, state: str, error: str, now: float) -> None:
    """active | ready → failed | quarantined; what waits for it is skipped, and so on down."""
    job.error = error
    _set_job(session, job, state, now)
    skipped = _dependents(session, job.id, "waiting")
    while skipped:
        dependent = skipped.pop()
        if dependent.state == "waiting":
            dependent.error = f"needs {job.kind} {job.id[:12]}, which {state}"
            _set_job(session, dependent, "skipped", now)
            skipped += _dependents(session, dependent.id, "waiting")


# ---- offers and runs -----------------------------------------------------------------------------------------------


def offer(session: Session, choice: Offer, run_id: str, attempt_id: str, now: float) -> bool:
    """ready → active, with a run and an attempt offered to a slot; False when job or slot are not free any more.

    A compare-and-set under the unique indexes, so two coordinators cannot bind one job or one slot twice.
    """
    taken = select(func.count()).select_from(t.Run).where(t.Run.worker == choice.worker, t.Run.slot == choice.slot, t.Run.state != "closed")
    if session.exec(taken).one() or not _cas_job(session, choice.job, "ready", "active"):
        return False
    session.add(t.Run(id=run_id, worker=choice.worker, slot=choice.slot, state="offered", offered_at=now))
    session.flush()
    session.add(t.Attempt(id=attempt_id, job=choice.job, run=run_id, worker=choice.worker, state="offered", offered_at=now))
    session.flush()
    log(session, now, "attempt offered", job=choice.job, attempt=attempt_id, worker=choice.worker)
    reach("offer_commit")
    return True


def _cas_job(session: Session, job_id: str, old: str, new: str) -> bool:
    statement = update(t.Job).where(col(t.Job.id) == job_id, col(t.Job.state) == old).values(state=new)
    return cast(CursorResult[Any], session.connection().execute(statement)).rowcount == 1


def claim(session: Session, run_id: str, worker: t.Worker, request: protocol.ClaimRequest, now: float) -> tuple[t.Run, list[t.Attempt]]:
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
    reach("claim_commit")
    return run, attempts


# ---- worker sessions -----------------------------------------------------------------------------------------------


def check_session(worker: t.Worker, boot_id: str) -> None:
    """Raises GoneError when a newer session of this worker said hello."""
    if worker.boot_id != boot_id:
        raise GoneError("This session was superseded by a newer one of the same worker", "Start the worker only once")


def hello(session: Session, worker: t.Worker, request: protocol.HelloRequest, lease_s: float, now: float) -> list[str]:
    """A session begins. What the old one ran is lost at once, what it finished is still to be delivered.

    Returns the attempts whose results the worker may drop.
    """
    if worker.boot_id == request.boot_id:
        raise GoneError("This boot id said hello before", "Make a new one at every start")
    worker.boot_id, worker.lease_until = request.boot_id, now + lease_s
    worker.hardware = request.hardware.model_dump(mode="json")
    log(session, now, "worker hello", worker=worker.id)
    held = set(request.undelivered)
    live = select(t.Attempt).where(t.Attempt.worker == worker.id, col(t.Attempt.state).in_(t.LIVE))
    for attempt in session.exec(live).all():
        if attempt.id in held:
            attempt.state = "delivering"
        else:
            _end(session, attempt, "lost", "its worker started anew", "", now)
    open_runs = update(t.Run).where(col(t.Run.worker) == worker.id, col(t.Run.state) != "closed").values(state="closed")
    session.connection().execute(open_runs)
    for slot in session.exec(select(t.Slot).where(t.Slot.worker == worker.id)).all():
        session.delete(slot)
    session.flush()
    session.add_all(_slot(worker.id, report) for report in request.slots)
    return [attempt for attempt in request.undelivered if not _deliverable(session, attempt)]


def _slot(worker: str, report: protocol.SlotReport) -> t.Slot:
    return t.Slot(worker=worker, **report.model_dump(exclude={"run"}))


def heartbeat(session: Session, worker: t.Worker, request: protocol.HeartbeatRequest, lease_s: float, now: float) -> bool:
    """Renews the lease; closes the runs whose slots are free. Returns whether a slot became free."""
    check_session(worker, request.boot_id)
    worker.lease_until = now + lease_s
    freed = False
    for report in request.slots:
        session.merge(_slot(worker.id, report))
        if report.free and report.run:
            run = session.get(t.Run, report.run)
            if run is not None and run.worker == worker.id and run.state == "claimed":
                run.state, freed = "closed", True
    for seen in request.attempts:
        attempt = session.get(t.Attempt, seen.attempt)
        if attempt is None or attempt.worker != worker.id or attempt.state not in ("running", "delivering"):
            continue
        attempt.position, attempt.total, attempt.metrics = seen.position, seen.total, dict(seen.metrics)
        if seen.phase == "delivering" and attempt.state == "running":
            attempt.state = "delivering"
            log(session, now, "attempt delivering", job=attempt.job, attempt=attempt.id, worker=worker.id)
    return freed


def reap(session: Session, offer_s: float, now: float, leases: bool) -> int:
    """Ends offers that nobody claimed in time and, with `leases`, all attempts of workers whose lease expired.

    Returns how many attempts it ended.
    """
    live = select(t.Attempt, t.Worker).join(t.Worker, col(t.Worker.id) == col(t.Attempt.worker))
    ended = 0
    for attempt, worker in session.exec(live.where(col(t.Attempt.state).in_(t.LIVE))).all():
        if attempt.state == "offered" and attempt.offered_at + offer_s < now:
            _end(session, attempt, "unclaimed", "nobody claimed the offer", "", now)
        elif leases and worker.lease_until < now:
            _end(session, attempt, "lost", "its worker's lease expired", "", now)
        else:
            continue
        ended += 1
    return ended


def _bump_control(session: Session) -> None:
    """Workers look again at what is desired of their attempts."""
    session.connection().execute(update(t.Worker).values(control_rev=t.Worker.control_rev + 1))


# ---- results and ends ----------------------------------------------------------------------------------------------


def _deliverable(session: Session, attempt_id: str) -> bool:
    attempt = session.get(t.Attempt, attempt_id)
    if attempt is None:
        return False
    done = session.get_one(t.Job, attempt.job).state == "done"
    return not done and (attempt.state in t.LIVE or attempt.reason in ("lost", "cancelled"))


def accept(session: Session, attempt_id: str, worker_id: str, result: protocol.ResultRequest, now: float) -> bool:
    """A complete result: records, metrics and artifacts enter, the job is done, what waited for it may be ready.

    Returns False for a replay. Raises ConflictError when the job is done by another attempt or an artifact is missing.
    """
    attempt = _own_attempt(session, attempt_id, worker_id)
    if attempt.state == "accepted":
        return False
    job = session.get_one(t.Job, attempt.job)
    if not _deliverable(session, attempt_id):
        raise ConflictError(f"Attempt {attempt_id} was replaced: its job is {job.state}", "Drop the result")
    _require_outputs(session, job, result)
    won = update(t.Job).where(col(t.Job.id) == job.id, col(t.Job.accepted_attempt).is_(None)).values(accepted_attempt=attempt_id)
    if cast(CursorResult[Any], session.connection().execute(won)).rowcount != 1:
        raise ConflictError(f"Job {job.id} has an accepted result", "Drop the result")
    session.refresh(job)
    _enter(session, job.id, attempt_id, result)
    _supersede(session, job.id, attempt_id, now)
    attempt.state, attempt.reason, attempt.ended_at, attempt.provenance = "accepted", None, now, result.provenance
    job.error = None
    _set_job(session, job, "done", now)
    log(session, now, "attempt accepted", job=job.id, attempt=attempt_id, worker=worker_id)
    _wake_dependents(session, job.id, now)
    reach("accept_commit")
    return True


def _own_attempt(session: Session, attempt_id: str, worker_id: str) -> t.Attempt:
    attempt = session.get(t.Attempt, attempt_id)
    if attempt is None or attempt.worker != worker_id:
        raise ConflictError(f"Attempt {attempt_id} is not this worker's", "Drop it")
    return attempt


def _require_outputs(session: Session, job: t.Job, result: protocol.ResultRequest) -> None:
    roles = {artifact.role for artifact in result.artifacts}
    if roles != set(KINDS[job.kind].outputs):
        raise ConflictError(f"A {job.kind} result has {sorted(roles)}, expected {sorted(KINDS[job.kind].outputs)}", "Update the worker")
    for artifact in result.artifacts:
        if session.get(t.Artifact, artifact.sha) is None:
            raise ConflictError(f"Artifact {artifact.sha} was not uploaded", "Upload it, then send the result again")


def _enter(session: Session, job_id: str, attempt_id: str, result: protocol.ResultRequest) -> None:
    session.add_all(t.ArtifactRef(job=job_id, role=a.role, sha=a.sha) for a in result.artifacts)
    session.add_all(t.Metric(job=job_id, name=name, value=value) for name, value in result.metrics.items())
    session.add_all(
        t.Record(job=job_id, attempt=attempt_id, item=r.item, name=r.name, value=r.value, meta=r.meta) for r in result.records
    )
    session.flush()


def _supersede(session: Session, job_id: str, winner: str, now: float) -> None:
    live = select(t.Attempt).where(t.Attempt.job == job_id, t.Attempt.id != winner, col(t.Attempt.state).in_(t.LIVE))
    for other in session.exec(live).all():
        other.state, other.reason, other.ended_at = "ended", "superseded", now
        log(session, now, "attempt ended", job=job_id, attempt=other.id, data={"reason": "superseded"})
        _bump_control(session)
    session.flush()


def _wake_dependents(session: Session, job_id: str, now: float) -> None:
    """waiting → ready where all needs are done; skipped → waiting, and so on down, where a late result brings the need back."""
    _unskip(session, job_id, now)
    for dependent in _dependents(session, job_id, "waiting"):
        if _needs_done(session, dependent.id):
            _set_job(session, dependent, "ready", now)


def _unskip(session: Session, job_id: str, now: float) -> None:
    back = _dependents(session, job_id, "skipped")
    while back:
        dependent = back.pop()
        if dependent.state == "skipped" and not _dead_needs(session, dependent.id):
            dependent.error, dependent.ended_at = None, None
            _set_job(session, dependent, "waiting", now)
            back += _dependents(session, dependent.id, "skipped")


def _dead_needs(session: Session, job_id: str) -> int:
    query = (
        select(func.count())
        .select_from(t.JobNeed)
        .join(t.Job, col(t.Job.id) == col(t.JobNeed.needs))
        .where(t.JobNeed.job == job_id, col(t.Job.state).in_(DEAD))
    )
    return session.exec(query).one()


def end(session: Session, attempt_id: str, worker_id: str, request: protocol.EndRequest, now: float) -> None:
    """The worker says that an attempt ended without a result. A replay changes nothing."""
    attempt = _own_attempt(session, attempt_id, worker_id)
    if attempt.state in t.LIVE:
        _end(session, attempt, request.reason, request.message, request.log_tail, now)
    elif attempt.state != "ended" or attempt.reason != request.reason:
        raise ConflictError(f"Attempt {attempt_id} is {attempt.state} ({attempt.reason}) by now", "Drop it")


def _end(session: Session, attempt: t.Attempt, reason: str, message: str, log_tail: str, now: float) -> None:
    """Any live state → ended(reason), and what that means for the job."""
    attempt.state, attempt.reason, attempt.ended_at = "ended", reason, now
    attempt.message, attempt.log_tail = message, log_tail
    run = session.get_one(t.Run, attempt.run)
    if run.state == "offered":
        run.state = "closed"
    session.flush()
    log(session, now, "attempt ended", job=attempt.job, attempt=attempt.id, worker=attempt.worker, data={"reason": reason, "message": message})
    job = session.get_one(t.Job, attempt.job)
    if job.state != "active":
        return
    if reason == "error":
        _give_up(session, job, "failed", message or "error", now)
    elif reason in CHARGING:
        job.charges += 1
        if job.charges >= MAX_CHARGES and _charged_widely(session, job.id, now):
            _give_up(session, job, "quarantined", f"{reason} {job.charges} times: {message}", now)
        else:
            _set_job(session, job, "ready", now)
    elif reason == "lost" and _lost_in_a_row(session, job.id) >= MAX_LOST:
        _give_up(session, job, "quarantined", f"its worker was lost {MAX_LOST} times in a row", now)
    else:
        _set_job(session, job, "ready", now)


def _charged_widely(session: Session, job_id: str, now: float) -> bool:
    charged = select(t.Attempt.worker).where(t.Attempt.job == job_id, col(t.Attempt.reason).in_(CHARGING)).distinct()
    live = select(func.count()).select_from(t.Worker).where(t.Worker.lease_until > now)
    return len(session.exec(charged).all()) >= min(2, session.exec(live).one())


def _lost_in_a_row(session: Session, job_id: str) -> int:
    reasons = session.exec(select(t.Attempt.reason).where(t.Attempt.job == job_id).order_by(col(t.Attempt.offered_at).desc())).all()
    return next((i for i, reason in enumerate(reasons) if reason != "lost"), len(reasons))


def join(session: Session, invite: t.Token, worker_id: str, name: str, token_hash: str, now: float) -> None:
    """A new worker; its invite is used up."""
    invite.used_at = now
    session.add(t.Worker(id=worker_id, name=name, token_hash=token_hash, joined_at=now))
    session.flush()
    log(session, now, "worker joined", worker=worker_id, data={"name": name})
