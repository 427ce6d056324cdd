"""Which studies the planner must look at: those whose plan may have changed since the last look."""

from sqlmodel import Session, col, select

from jsm_queue.store import queries
from jsm_queue.store import tables as t
from jsm_queue.store.events import RESTORED

OPEN = ("waiting", "ready", "active")


def studies_to_plan(session: Session, seen: int) -> list[str]:
    """The running studies, the newest first, whose plan may have changed since event `seen`; with -1 all of them.

    Of its jobs' states a plan asks only whether all of one kind in one stage are terminal, and which are done then. So
    an event that names a study (it was submitted, goes on, got a verdict) asks for a look, and one that names a job
    does where no job of its kind is open any more in its stage. A study without a class of hardware waits for a
    worker, which no event of its own tells. Events are numbered in the order of commits, so none is missed; whoever
    starts anew has seen none and looks at all; so does everyone once the store was restored, whose numbers are others.
    """
    running = select(t.Study.id, t.Study.hardware).where(t.Study.state == "running")
    studies = session.exec(running.order_by(col(t.Study.created_at).desc())).all()
    if seen < 0 or _restored(session, seen):
        return [study for study, _ in studies]
    named = select(t.Event.study).where(t.Event.seq > seen).distinct()
    changed = {*session.exec(named)} | _completed(session, seen)
    return [study for study, hardware in studies if hardware is None or study in changed]


def _restored(session: Session, seen: int) -> bool:
    restored = select(t.Event.seq).where(t.Event.seq > seen, t.Event.what == RESTORED)
    return queries.last_event(session) < seen or session.exec(restored.limit(1)).first() is not None


def _completed(session: Session, seen: int) -> set[str]:
    """The running studies with a job that ended since `seen` as the last of its kind in its stage."""
    ended = (
        select(t.StudyJob.study, t.StudyJob.stage, t.Job.kind)
        .join(t.Job, col(t.Job.id) == col(t.StudyJob.job))
        .join(t.Event, col(t.Event.job) == col(t.Job.id))
        .join(t.Study, col(t.Study.id) == col(t.StudyJob.study))
        .where(t.Event.seq > seen, t.Study.state == "running", col(t.Job.state).not_in(OPEN))
        .distinct()
    )
    return {study for study, stage, kind in session.exec(ended).all() if not _any_open(session, study, stage, kind)}


def _any_open(session: Session, study: str, stage: str, kind: str) -> bool:
    query = (
        select(t.Job.id)
        .join(t.StudyJob, col(t.StudyJob.job) == col(t.Job.id))
        .where(t.StudyJob.study == study, t.StudyJob.stage == stage)
        .where(t.Job.kind == kind, col(t.Job.state).in_(OPEN))
    )
    return session.exec(query.limit(1)).first() is not None
