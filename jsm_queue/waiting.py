"""Why a job of the store waits: what the scheduler would be asked, and its answer."""

from dataclasses import dataclass

from sqlmodel import Session, col, select

from jsm_queue import assigning, scheduler
from jsm_queue.scheduler import Need, Situation
from jsm_queue.store import costs, queries
from jsm_queue.store import tables as t


@dataclass(frozen=True)
class Why:
    """A job, and in one sentence why it waits, where it runs, or why it ended."""

    id: str
    label: str
    state: str
    why: str


def why(session: Session, job: t.Job, now: float) -> Why:
    """What stands in the way of a job."""
    situation = _situation(session, job, now)
    ready, slots, learned = [], [], costs.learned(session)
    if job.state == "ready":
        ready, slots = assigning.ready_jobs(session, now), assigning.open_slots(session, now, learned)
    sentence = scheduler.explain(situation, ready, slots, learned)
    return Why(job.id, _label(session, job), job.state, sentence)


def _situation(session: Session, job: t.Job, now: float) -> Situation:
    attempts = queries.attempts(session, job.id)
    newest, worker = attempts[-1] if attempts else (None, None)
    if job.state == "done":
        worker = next((name for attempt, name in attempts if attempt.id == job.accepted_attempt), None)
    return Situation(
        state=job.state,
        error=job.error,
        studies=_studies(session, job),
        needs=_needs(session, job) if job.state == "waiting" else (),
        worker=worker,
        attempt=newest.state if newest else None,
        since_s=max(0.0, now - (newest.started_at or newest.offered_at)) if newest else 0.0,
        position=newest.position if newest else 0,
        total=newest.total if newest else 0,
        paused=newest.paused if newest else None,
        job=job.id,
        rests_s=until - now if (until := assigning.resting_until(session, now).get(job.id)) else None,
        away_s=_away_s(session, newest, now) if newest and job.state == "active" else None,
        set_aside=tuple(queries.set_aside(session, now)),
    )


def _away_s(session: Session, attempt: t.Attempt, now: float) -> float | None:
    ago = now - session.get_one(t.Worker, attempt.worker).lease_until
    return ago if ago > 0 else None


def _studies(session: Session, job: t.Job) -> tuple[tuple[str, str], ...]:
    listed = select(t.StudyJob.study).where(t.StudyJob.job == job.id)
    found = session.exec(select(t.Study.name, t.Study.state).where(col(t.Study.id).in_(listed)))
    return tuple(sorted(found.all()))


def _needs(session: Session, job: t.Job) -> tuple[Need, ...]:
    needed = select(t.JobNeed.needs).where(t.JobNeed.job == job.id)
    rows = session.exec(select(t.Job).where(col(t.Job.id).in_(needed), t.Job.state != "done").order_by(t.Job.id))
    return tuple(Need(_label(session, row), row.state, _runner(session, row)) for row in rows.all())


def _runner(session: Session, job: t.Job) -> str | None:
    """The name of the worker that runs it."""
    live = [name for attempt, name in queries.attempts(session, job.id) if attempt.state in t.LIVE]
    return live[-1] if live else None


def _label(session: Session, job: t.Job) -> str:
    listing = session.exec(
        select(t.StudyJob.cell)
        .where(t.StudyJob.job == job.id)
        .order_by(t.StudyJob.study, queries.stage_order())
        .limit(1)
    ).first()
    return queries.label(job.kind, listing or "")
