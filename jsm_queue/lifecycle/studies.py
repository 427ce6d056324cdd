"""A study's states, what it wants, and its verdicts."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import func, update
from sqlmodel import Session, col, select

from jsm_queue.canonical import content_hash
from jsm_queue.lifecycle.jobs import DEAD, add_job, bump_control, revive
from jsm_queue.planner import Wanted
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
    """running → ended: all its stages are decided and all its jobs terminal."""
    changed = session.connection().execute(
        update(t.Study)
        .where(col(t.Study.id) == study_id, col(t.Study.state) == "running")
        .values(state="ended", ended_at=now)
    )
    if changed.rowcount:
        log(session, now, "study ended", study=study_id)


def list_jobs(session: Session, study_id: str, wanted: Iterable[Wanted], now: float) -> int:
    """Add the jobs that the study wants and does not list yet. Returns how many of its listings are new."""
    listed = 0
    for item in wanted:
        known = session.get(t.Job, item.job.id)
        if known is None:
            add_job(session, item.job, now)
        elif _lists(session, study_id, item.job.id):
            known = None  # what became of it is this study's own doing
        elif known.state in DEAD:
            revive(session, [known], now)
        listed += insert_or_ignore(
            session, _listing(study_id, item, reused=known is not None and known.state == "done")
        )
    return listed


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


def _lists(session: Session, study_id: str, job_id: str) -> bool:
    query = select(func.count()).select_from(t.StudyJob).where(t.StudyJob.study == study_id, t.StudyJob.job == job_id)
    return session.exec(query).one() > 0
