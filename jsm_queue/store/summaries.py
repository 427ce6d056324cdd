"""How far studies are, without reading what they did: their stages and how many of their jobs are in which state."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import distinct
from sqlmodel import Session, col, func, select

from jsm_queue.store import tables as t

STAGES = ("scale", "bases", "quantization")  # in their order
STATES = ("waiting", "ready", "active", "done", "failed", "quarantined", "skipped")
NOT_DONE = tuple(state for state in STATES if state != "done")
NO_JOBS: dict[str, int] = dict.fromkeys((*STATES, "total", "reused"), 0)


def of_all(session: Session) -> list[dict[str, Any]]:
    """What `of_study` says, of all studies, the newest first; as many queries for all as for one."""
    studies = session.exec(select(t.Study).order_by(col(t.Study.created_at).desc())).all()
    counts, decided = job_counts(session), _decided(session)
    return [_summary(study, counts.get(study.id, NO_JOBS), decided) for study in studies]


def of_study(session: Session, study: t.Study) -> dict[str, Any]:
    """A study's name, state, stage and numbers of jobs."""
    return _summary(study, job_counts(session, study.id).get(study.id, NO_JOBS), _decided(session, study.id))


def job_counts(session: Session, study: str | None = None) -> dict[str, dict[str, int]]:
    """Study → how many of its jobs are in each state, in all (`total`), and were done before it listed them (`reused`).

    Of all studies that list any, or of one. Done is what is listed and nothing else: no row of a done job is read.
    """
    jobs = func.count(distinct(col(t.StudyJob.job)))
    listed = _only(select(t.StudyJob.study, jobs).group_by(t.StudyJob.study), study)
    others = (
        select(t.StudyJob.study, t.Job.state, jobs)
        .join(t.Job, col(t.Job.id) == col(t.StudyJob.job))
        .where(col(t.Job.state).in_(NOT_DONE))
        .group_by(t.StudyJob.study, t.Job.state)
    )
    counts = {key: NO_JOBS | {"total": total} for key, total in session.exec(listed)}
    for key, reused in session.exec(listed.where(col(t.StudyJob.reused).is_(True))):
        counts[key]["reused"] = reused
    for key, state, number in session.exec(_only(others, study)):
        counts[key][state] = number
    for count in counts.values():
        count["done"] = count["total"] - sum(count[state] for state in NOT_DONE)
    return counts


def _only(query: Any, study: str | None) -> Any:
    return query if study is None else query.where(t.StudyJob.study == study)


def _decided(session: Session, study: str | None = None) -> set[tuple[str, str]]:
    """(study, stage) of the verdicts."""
    query = select(t.VerdictRow.study, t.VerdictRow.stage)
    return set(session.exec(query.where(t.VerdictRow.study == study) if study else query).all())


def _summary(study: t.Study, counts: dict[str, int], decided: Collection[tuple[str, str]]) -> dict[str, Any]:
    return {
        "id": study.id,
        "name": study.name,
        "state": study.state,
        "created_at": study.created_at,
        "ended_at": study.ended_at,
        "stage": _stage(study, decided),
        "jobs": counts,
    }


def _stage(study: t.Study, decided: Collection[tuple[str, str]]) -> str:
    """The stage that waits for its verdict, or "ended"."""
    order = [stage for stage in STAGES if study.spec["stages"].get(stage)] if study.state != "ended" else []
    return next((stage for stage in order if (study.id, stage) not in decided), "ended")
