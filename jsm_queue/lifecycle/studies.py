"""A study's states, what it wants, and its verdicts."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from jsm_queue.canonical import content_hash
from jsm_queue.lifecycle.jobs import DEAD, add_job, bump_control, revive
from jsm_queue.planner import TERMINAL, Wanted
from jsm_queue.store import tables as t
from jsm_queue.store.database import insert_or_ignore
from jsm_queue.store.events import log
from jsm_queue.verdicts import RULES_VERSION, Verdict


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
        revive(session, _jobs_of(session, study_id), now)
        bump_control(session)
    return study, False


def cancel_study(session: Session, study: t.Study, now: float) -> None:
    """running | paused → cancelled: its jobs are unwanted unless another study lists them."""
    if study.state in ("running", "paused"):
        study.state, study.ended_at = "cancelled", now
        log(session, now, "study cancelled", study=study.id)
        bump_control(session)


def pause_study(session: Session, study: t.Study, now: float) -> None:
    """running → paused: nothing of it is assigned, and what runs is asked to give its slot back."""
    if study.state == "running":
        study.state = "paused"
        log(session, now, "study paused", study=study.id)
        bump_control(session)


def resume_study(session: Session, study: t.Study, now: float) -> None:
    """paused → running."""
    if study.state == "paused":
        study.state = "running"
        log(session, now, "study running", study=study.id)
        bump_control(session)


def retry_study(session: Session, study: t.Study, now: float) -> int:
    """Its failed and quarantined jobs → ready; an ended study → running. Verdicts that are written stand.

    Returns how many jobs are tried again.
    """
    dead = [job for job in _jobs_of(session, study.id) if job.state in ("failed", "quarantined")]
    revive(session, dead, now)
    if dead and study.state == "ended":
        study.state, study.ended_at = "running", None
        log(session, now, "study running", study=study.id)
    return len(dead)


def end_study(session: Session, study_id: str, now: float) -> None:
    """running → ended: all its stages are decided and all its jobs terminal. A job that was brought back keeps it."""
    study = session.get_one(t.Study, study_id)
    if study.state == "running" and not _has_work(session, study_id):
        study.state, study.ended_at = "ended", now
        log(session, now, "study ended", study=study_id)


def _has_work(session: Session, study_id: str) -> bool:
    open_jobs = (
        select(func.count())
        .select_from(t.StudyJob)
        .join(t.Job, col(t.Job.id) == col(t.StudyJob.job))
        .where(t.StudyJob.study == study_id, col(t.Job.state).not_in(list(TERMINAL)))
    )
    return session.exec(open_jobs).one() > 0


def list_jobs(session: Session, study_id: str, wanted: Sequence[Wanted], now: float) -> int:
    """Add the jobs that the study wants and does not list yet, after those that they need.

    Returns how many of its listings are new.
    """
    known = _known_jobs(session, wanted)
    listed = _listed(session, study_id, known)
    own, before = {job for job, *_ in listed}, len(listed)
    for item in wanted:
        job, reused = known.get(item.job.id), False
        if job is None:
            known[item.job.id] = add_job(session, item.job, [known[need] for need in item.job.needs.values()], now)
        elif item.job.id not in own:  # else what became of it is this study's own doing
            reused = job.state == "done"
            if job.state in DEAD:
                revive(session, [job], now)
            if job.state == "active":
                bump_control(session)  # it may have been unwanted
        listing = (item.job.id, item.stage, item.cell.label if item.cell else "")
        if listing not in listed:
            session.add(_listing(study_id, item, reused))
            listed.add(listing)
            own.add(item.job.id)
    session.flush()
    return len(listed) - before


def _known_jobs(session: Session, wanted: Sequence[Wanted]) -> dict[str, t.Job]:
    """Those of the wanted jobs, and of what they need, that are there already."""
    ids = {item.job.id for item in wanted} | {need for item in wanted for need in item.job.needs.values()}
    return {job.id: job for job in session.exec(select(t.Job).where(col(t.Job.id).in_(list(ids))))}


def _listed(session: Session, study_id: str, jobs: Iterable[str]) -> set[tuple[str, str, str]]:
    """(job, stage, cell) of the study's listings of those jobs."""
    query = select(t.StudyJob.job, t.StudyJob.stage, t.StudyJob.cell)
    return set(session.exec(query.where(t.StudyJob.study == study_id, col(t.StudyJob.job).in_(list(jobs)))).all())


def _listing(study_id: str, item: Wanted, reused: bool) -> t.StudyJob:
    if item.cell is None:
        return t.StudyJob(study=study_id, job=item.job.id, stage=item.stage, cell="", reused=reused)
    cell = {"base": item.cell.base, "n": item.cell.n, "seed": item.cell.seed, "format": item.cell.format}
    return t.StudyJob(study=study_id, job=item.job.id, stage=item.stage, cell=item.cell.label, reused=reused, **cell)


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


def _jobs_of(session: Session, study_id: str) -> list[t.Job]:
    query = select(t.Job).where(col(t.Job.id).in_(select(t.StudyJob.job).where(t.StudyJob.study == study_id)))
    return list(session.exec(query.order_by(col(t.Job.created_at))))
