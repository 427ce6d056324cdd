"""Reading the store. No function here writes."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Row, and_, case, or_, true
from sqlmodel import Session, col, func, select

from jsm_queue.errors import NotFoundError
from jsm_queue.store import access, summaries
from jsm_queue.store import tables as t
from jsm_queue.store.summaries import STAGES

Named = TypeVar("Named", t.Study, t.Job)
MANY = 10  # offers; more say nothing new
PREFIX = 6  # digits of an id that are enough to name a study or job


def find_study(session: Session, prefix: str) -> t.Study:
    """The study with that id or unique id prefix. Raises NotFoundError."""
    return _find(session, t.Study, prefix, "study", "`jsm status` lists them")


def find_job(session: Session, prefix: str) -> t.Job:
    """The job with that id or unique id prefix. Raises NotFoundError."""
    return _find(session, t.Job, prefix, "job", "`jsm jobs STUDY` lists them")


def _find(session: Session, table: type[Named], prefix: str, what: str, fix: str) -> Named:
    rows: list[Any] = []
    if len(prefix) >= PREFIX and prefix.isalnum():
        rows = list(session.exec(select(table).where(col(table.id).startswith(prefix)).limit(2)))
    if len(rows) != 1:
        raise NotFoundError(f"{'No' if not rows else 'More than one'} {what} {prefix!r}", fix)
    return rows[0]


def studies(session: Session, state: str | None = None) -> list[t.Study]:
    """All studies, or those in a state; the newest first."""
    query = select(t.Study).order_by(col(t.Study.created_at).desc())
    return list(session.exec(query.where(t.Study.state == state) if state else query))


def job_states(session: Session, study: str) -> dict[str, str]:
    """Job id → state, of all jobs that a study lists."""
    query = select(t.Job.id, t.Job.state).where(
        col(t.Job.id).in_(select(t.StudyJob.job).where(t.StudyJob.study == study))
    )
    return dict(session.exec(query).all())


def listings(session: Session, study: str) -> set[tuple[str, str, str]]:
    """(stage, cell, job id) of everything that a study lists."""
    return set(session.exec(select(t.StudyJob.stage, t.StudyJob.cell, t.StudyJob.job).where(t.StudyJob.study == study)))


def job_counts(session: Session, study: str) -> dict[str, int]:
    """How many of a study's jobs are in each state, in all, and were done before it listed them."""
    return summaries.job_counts(session, study).get(study, summaries.NO_JOBS)


def decisions(session: Session, study: str) -> dict[str, dict[str, Any]]:
    """Stage → the decision of its last look."""
    query = select(t.VerdictRow.stage, t.VerdictRow.decision).where(t.VerdictRow.study == study)
    rows = session.exec(query.order_by(col(t.VerdictRow.created_at), col(t.VerdictRow.look)))
    return {stage: dict(decision) for stage, decision in rows}


def verdicts(session: Session, study: str) -> list[t.VerdictRow]:
    """The verdicts of a study, in the order in which they were written."""
    query = select(t.VerdictRow).where(t.VerdictRow.study == study)
    return list(session.exec(query.order_by(col(t.VerdictRow.created_at), col(t.VerdictRow.look))))


def stage_order() -> ColumnElement[int]:
    """Listings in the order of their stages."""
    return case(*((col(t.StudyJob.stage) == stage, place) for place, stage in enumerate(STAGES)))


def attempts(session: Session, job: str) -> list[tuple[t.Attempt, str]]:
    """A job's attempts, each with its worker's name, the oldest first."""
    query = (
        select(t.Attempt, t.Worker.name)
        .join(t.Worker, col(t.Worker.id) == col(t.Attempt.worker))
        .where(t.Attempt.job == job)
        .order_by(col(t.Attempt.offered_at), t.Attempt.id)
    )
    return list(session.exec(query).all())


def waiting_for(session: Session, study: t.Study, now: float) -> str | None:
    """What a running study needs and the pool has not now, in words for people; else None."""
    if study.state != "running":
        return None
    here = slots(session, now)
    nobody = _owners(here) if here else _all_aside(session, now)
    return nobody or _hardware(session, study, now) or _able(session, study, now)


def _all_aside(session: Session, now: float) -> str | None:
    """The worker that is told to take no jobs, where none takes any."""
    aside = set_aside(session, now)
    if not aside:
        return None
    name, state = aside[0]
    return f"{name}, which is {state}: `jsm worker resume`" + _more(len(aside) - 1)


def _owners(here: list[tuple[t.Slot, t.Worker]]) -> str | None:
    """The worker that works again when its owner lets it, where owners keep all of these slots."""
    held = sorted((worker.name, slot.hold or "") for slot, worker in here)
    if not all(hold for _, hold in held):
        return None
    name, hold = held[0]
    return f"{name}, kept by its owner: {hold}" + _more(len({name for name, _ in held}) - 1)


def _more(others: int) -> str:
    return f", and {others} more" if others else ""


def _hardware(session: Session, study: t.Study, now: float) -> str | None:
    """The class of hardware of the study's latency job, where no live worker is of it."""
    ready = select(t.Job).where(_ready_of(study), t.Job.kind == "latency")
    here = {(worker.hardware or {}).get("hardware_class") for worker in live_workers(session, now)}
    for job in session.exec(ready.order_by(t.Job.id)):
        hardware = job.params.get("hardware")
        if hardware is not None and hardware not in here:
            return f"a worker of class {hardware!r} for {job.kind}"
    return None


def _able(session: Session, study: t.Study, now: float) -> str | None:
    """A kind of the study's ready jobs that no live worker can do, with what one of them lacks for it."""
    kinds = select(t.Job.kind).where(_ready_of(study)).distinct()
    here = [(worker.name, (worker.hardware or {}).get("lacks", {})) for worker in live_workers(session, now)]
    for kind in sorted(session.exec(kinds)):
        lacking = sorted((name, lacks[kind]) for name, lacks in here if kind in lacks)
        if here and len(lacking) == len(here):
            return f"a worker that can do {kind} ({lacking[0][0]}: {lacking[0][1]})"
    return None


def _ready_of(study: t.Study) -> ColumnElement[bool]:
    listed = select(t.StudyJob.job).where(t.StudyJob.study == study.id)
    return and_(col(t.Job.id).in_(listed), col(t.Job.state) == "ready")


def label(kind: str, cell: str) -> str:
    """What people read in Flower and the CLI, e.g. "train river-qwen2 n=250 seed=1"."""
    return f"{kind} {cell}".strip()


def input_files(session: Session, job: t.Job) -> list[tuple[str, str, str, int]]:
    """(need's name, role, sha, size) of everything that a job's needs delivered."""
    query = (
        select(t.JobNeed.name, t.ArtifactRef.role, t.Artifact.sha, t.Artifact.size)
        .join(t.ArtifactRef, col(t.ArtifactRef.job) == col(t.JobNeed.needs))
        .join(t.Artifact, col(t.Artifact.sha) == col(t.ArtifactRef.sha))
        .where(t.JobNeed.job == job.id)
        .order_by(t.JobNeed.name, t.ArtifactRef.role)
    )
    return [tuple(row) for row in session.exec(query).all()]  # type: ignore[misc]


def sizes(session: Session, shas: Iterable[str]) -> dict[str, int]:
    """sha → size, of the artifacts that are whole."""
    known = select(t.Artifact.sha, t.Artifact.size).where(col(t.Artifact.sha).in_(list(shas)))
    return dict(session.exec(known.where(t.Artifact.state == "whole")).all())


def live_workers(session: Session, now: float) -> list[t.Worker]:
    """The workers whose lease has not expired."""
    return list(session.exec(select(t.Worker).where(t.Worker.lease_until > now).order_by(t.Worker.id)))


def set_aside(session: Session, now: float) -> list[tuple[str, str]]:
    """Name and state of the live workers that somebody told to take no jobs, in the order of names."""
    return sorted((worker.name, worker.state) for worker in live_workers(session, now) if worker.state != "active")


def ready_jobs(session: Session, only: Collection[str] | None = None) -> Sequence[Row[Any]]:
    """The ready jobs of running studies, or `only` those, one row a listing: the job's id, kind, params, memory_needed,
    solo and `listed_at`, the study's id as `study`, its priority and created_at, the listing's stage, cell, base, n,
    seed and format.

    Columns and no objects: thousands may be ready.
    """
    named = true() if only is None else col(t.Job.id).in_(sorted(only))
    query = (
        select(  # type: ignore[call-overload]
            t.Job.id, t.Job.kind, t.Job.params, t.Job.memory_needed, t.Job.solo,
            col(t.Job.created_at).label("listed_at"), t.StudyJob.study, t.Study.priority, t.Study.created_at,
            t.StudyJob.stage, t.StudyJob.cell, t.StudyJob.base, t.StudyJob.n, t.StudyJob.seed, t.StudyJob.format,
        )
        .join(t.StudyJob, col(t.StudyJob.job) == col(t.Job.id))
        .join(t.Study, col(t.Study.id) == col(t.StudyJob.study))
        .where(t.Job.state == "ready", t.Study.state == "running", named)
        .order_by(col(t.Study.created_at), t.Job.id)
    )  # fmt: skip
    return session.exec(query).all()


def gone_with(session: Session, since: float) -> Sequence[Row[Any]]:
    """Attempts at ready jobs whose workers went away no earlier than `since`, with more done than the api has: job,
    worker, started_at, began_at, position, the job's position as `kept`, and when it was last heard of, as `until`.
    """
    until = func.coalesce(t.Attempt.ended_at, t.Worker.lease_until)
    query = (
        select(  # type: ignore[call-overload]
            t.Attempt.job, t.Attempt.worker, t.Attempt.started_at, t.Attempt.began_at, t.Attempt.position,
            col(t.Job.position).label("kept"), until.label("until"),
        )
        .join(t.Job, col(t.Job.id) == col(t.Attempt.job))
        .join(t.Worker, col(t.Worker.id) == col(t.Attempt.worker))
        .where(t.Job.state == "ready", t.Worker.state == "active", t.Attempt.position > t.Job.position)
        .where(or_(col(t.Attempt.state) == "suspect", col(t.Attempt.reason) == "lost"), until > since)
        .order_by(col(t.Attempt.position), t.Attempt.id)
    )  # fmt: skip
    return session.exec(query).all()


def open_attempts(session: Session) -> Sequence[Row[Any]]:
    """What the open runs are about, one row an attempt and listing: the run's worker and slot, the attempt's state,
    times, position and `paused`, the job's id, kind and params, the listing's study, stage, base, n and format.
    """
    still_open = select(t.Run.id).where(t.Run.state != "closed")
    query = (
        select(  # type: ignore[call-overload]
            t.Run.worker, t.Run.slot, t.Attempt.state, t.Attempt.offered_at, t.Attempt.started_at, t.Attempt.began_at,
            t.Attempt.position, t.Attempt.total, t.Attempt.paused, t.Job.id, t.Job.kind, t.Job.params,
            t.StudyJob.study, t.StudyJob.stage, t.StudyJob.base, t.StudyJob.n, t.StudyJob.format,
        )
        .join(t.Attempt, col(t.Attempt.run) == col(t.Run.id))
        .join(t.Job, col(t.Job.id) == col(t.Attempt.job))
        .join(t.StudyJob, col(t.StudyJob.job) == col(t.Job.id), isouter=True)
        .where(col(t.Run.id).in_(still_open))
        .order_by(t.Attempt.id, t.StudyJob.study, stage_order())
    )  # fmt: skip
    return session.exec(query).all()


def slots(session: Session, now: float) -> list[tuple[t.Slot, t.Worker]]:
    """The slots of live workers that take new jobs."""
    query = select(t.Slot, t.Worker).join(t.Worker, col(t.Worker.id) == col(t.Slot.worker))
    return list(session.exec(query.where(t.Worker.lease_until > now, t.Worker.state == "active")).all())


def active_elsewhere(session: Session, study: str) -> int:
    """How many of the study's active jobs another running study lists."""
    others = select(t.StudyJob.job).join(t.Study, col(t.Study.id) == col(t.StudyJob.study))
    others = others.where(t.Study.state == "running", t.Study.id != study)
    listed = select(t.StudyJob.job).where(t.StudyJob.study == study)
    active = select(func.count()).select_from(t.Job).where(t.Job.state == "active")
    return session.exec(active.where(col(t.Job.id).in_(listed), col(t.Job.id).in_(others))).one()


def unclaimed_in_a_row(session: Session, worker: t.Worker) -> int:
    """How many offers to this worker's session ended unclaimed since the last one that it claimed; MANY at most."""
    newest = (
        select(t.Attempt.reason)
        .where(t.Attempt.worker == worker.id, t.Attempt.offered_at >= worker.hello_at, t.Attempt.state != "offered")
        .order_by(col(t.Attempt.offered_at).desc())
        .limit(MANY)
    )
    reasons = session.exec(newest).all()
    return next((count for count, reason in enumerate(reasons) if reason != "unclaimed"), len(reasons))


def busy_slots(session: Session) -> set[tuple[str, int]]:
    """(worker, slot) where a run is claimed."""
    return set(session.exec(select(t.Run.worker, t.Run.slot).where(t.Run.state == "claimed")).all())


def full_disks(session: Session, since: float) -> set[tuple[str, str]]:
    """(job, worker) where a full disk ended an attempt, until the worker reports more room than it had at the offer.

    A worker that reports nothing of its disk is left out from `since` on.
    """
    unknown = or_(col(t.Worker.disk_free).is_(None), col(t.Attempt.disk_free).is_(None))
    query = (
        select(t.Attempt.job, t.Attempt.worker)
        .join(t.Worker, col(t.Worker.id) == col(t.Attempt.worker))
        .where(t.Attempt.reason == "disk")
        .where(
            or_(
                and_(unknown, col(t.Attempt.ended_at) > since),
                col(t.Worker.disk_free) <= col(t.Attempt.disk_free),
            )
        )
    )
    return set(session.exec(query).all())


def jobs_without_room(session: Session, since: float) -> Counter[str]:
    """Worker → how many ready jobs filled its disk, as `full_disks` says."""
    found = full_disks(session, since)
    ready = select(t.Job.id).where(t.Job.state == "ready", col(t.Job.id).in_({job for job, _ in found}))
    waiting = set(session.exec(ready).all()) if found else set()
    return Counter(worker for job, worker in found if job in waiting)


def last_event(session: Session) -> int:
    """The number of the newest event, 0 when there is none."""
    counter = session.get(t.Counter, "event")
    return int(counter.value) if counter else 0


def first_listing(session: Session, job: str) -> t.StudyJob:
    """One listing of a job, by a study that runs where there is one; the same each time. Raises when none lists it."""
    query = select(t.StudyJob).join(t.Study, col(t.Study.id) == col(t.StudyJob.study)).where(t.StudyJob.job == job)
    order = (col(t.Study.state) != "running", t.StudyJob.study, stage_order(), t.StudyJob.cell)
    return session.exec(query.order_by(*order).limit(1)).one()


def desired(session: Session, worker: str) -> dict[str, str]:
    """Attempt → "run", "pause", "release" or "stop", of the attempts in the worker's open runs.

    "stop" what nobody wants; "release" what only a paused study wants, and everything on a worker that is drained;
    "pause" everything on one that is paused.
    """
    state = session.get_one(t.Worker, worker).state
    here = {"active": "run", "paused": "pause"}.get(state, "release")
    running, paused = (
        # Of this attempt's job alone: a running study lists thousands, and every worker asks twice a second.
        select(t.StudyJob.job)
        .join(t.Study, col(t.Study.id) == col(t.StudyJob.study))
        .where(t.StudyJob.job == t.Attempt.job, t.Study.state == state)
        .exists()
        for state in ("running", "paused")
    )
    wish = case((running, here), (paused, "release"), else_="stop")
    query = (
        select(t.Attempt.id, t.Attempt.state, wish)
        .join(t.Run, col(t.Run.id) == col(t.Attempt.run))
        .where(t.Run.worker == worker, t.Run.state != "closed")
    )
    return {attempt: wish if state in t.LIVE else "stop" for attempt, state, wish in session.exec(query).all()}


def input_bytes(session: Session, jobs: Collection[str]) -> dict[str, int]:
    """Job → bytes of what a worker without any of it would have to fetch from the api: inputs, base, checkpoint.

    A base of the hub counts with what its study found of it at submit, where it found anything.
    """
    rows = list(session.exec(select(t.Job).where(col(t.Job.id).in_(list(jobs)))))
    files: dict[str, set[str]] = {job.id: {sha for _, _, sha in access.leaves(job.params)} for job in rows}
    needed = (
        select(t.JobNeed.job, t.ArtifactRef.sha)
        .join(t.ArtifactRef, col(t.ArtifactRef.job) == col(t.JobNeed.needs))
        .where(col(t.JobNeed.job).in_(list(files)))
    )
    for job, sha in session.exec(needed):
        files[job].add(sha)
    for job in rows:
        files[job.id] |= {job.checkpoint} - {None}  # type: ignore[operator]
    known = sizes(session, {sha for each in files.values() for sha in each})
    hub = _hub_bytes(session) if any(_hub_base(job.params) for job in rows) else {}
    return {
        job.id: sum(known.get(sha, 0) for sha in files[job.id]) + hub.get(_hub_base(job.params) or ("", ""), 0)
        for job in rows
    }


def _hub_base(params: dict[str, Any]) -> tuple[str, str] | None:
    base = params.get("base")
    if isinstance(base, dict) and base.get("form") == "hub":
        return str(base.get("repo")), str(base.get("revision"))
    return None


def _hub_bytes(session: Session) -> dict[tuple[str, str], int]:
    """(repository, commit) → bytes, of the studies' bases of which that is known."""
    found: dict[tuple[str, str], int] = {}
    for inputs in session.exec(select(t.Study.inputs)):
        facts = inputs.get("facts", {})
        for name, base in inputs.get("bases", {}).items():
            key, size = _hub_base({"base": base}), (facts.get(name) or {}).get("bytes")
            if key and size:
                found[key] = size
    return found


def find_worker(session: Session, named: str) -> t.Worker:
    """The worker of that name, or whose id begins so; removed ones are no workers any more. Raises NotFoundError."""
    here = select(t.Worker).where(t.Worker.state != "removed").order_by(t.Worker.id)
    rows = list(session.exec(here.where(t.Worker.name == named)))
    if not rows and len(named) >= PREFIX and re.fullmatch(r"[0-9a-f-]+", named):
        rows = list(session.exec(here.where(col(t.Worker.id).startswith(named))))
    if len(rows) != 1:
        fix = "`jsm worker list` shows their names and ids"
        raise NotFoundError(f"{'No' if not rows else 'More than one'} worker {named!r}", fix)
    return rows[0]
