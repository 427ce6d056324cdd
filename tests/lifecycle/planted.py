"""Bugs to plant in the real code, one at a time: `with BUGS[name](): …`. Each is a mistake that somebody could make.

They replace functions where these are looked up, so a bug is in force for whoever calls the lifecycle.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast
from unittest.mock import patch

from sqlalchemy import CursorResult, event, update
from sqlmodel import Session, col, select

from jsm_queue import assigning, lifecycle, protocol, scheduler
from jsm_queue.errors import ConflictError
from jsm_queue.lifecycle import attempts, files, jobs, sessions, studies
from jsm_queue.store import database, queries
from jsm_queue.store import tables as t
from jsm_queue.store.database import insert_or_ignore
from tests.planting import Plant, into, nothing

BUGS: dict[str, Plant] = {}
_bug = into(BUGS)


def _replace(name: str, module: Any, attribute: str, value: Any) -> None:
    """A bug that is one replaced function."""
    BUGS[name] = lambda: patch.object(module, attribute, value)


def _true(*_given: Any) -> bool:
    return True


# Compare-and-set, and who may write


@_bug
def the_job_is_bound_whatever_its_state() -> Iterator[None]:
    def bind(session: Session, job: str, _old: str, new: str) -> bool:
        statement = update(t.Job).where(col(t.Job.id) == job).values(state=new)
        return cast(CursorResult[Any], session.connection().execute(statement)).rowcount == 1

    with patch.object(attempts, "swap_state", bind):
        yield


class _Unconditional:
    """An UPDATE that keeps only its first condition."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def where(self, first: Any, *_dropped: Any) -> Any:
        return update(self._table).where(first)


@_bug
def a_job_is_accepted_twice() -> Iterator[None]:
    def take(session: Session, job: str, attempt: str, result: protocol.ResultRequest) -> None:
        for row in session.exec(select(t.Record).where(t.Record.job == job)).all():
            session.delete(row)
        for ref in session.exec(select(t.ArtifactRef).where(t.ArtifactRef.job == job)).all():
            session.delete(ref)
        session.flush()
        enter(session, job, attempt, result)

    enter = attempts._enter
    with (
        patch.object(attempts, "update", _Unconditional),
        patch.object(attempts, "deliverable", _true),
        patch.object(attempts, "_enter", take),
    ):
        yield


_replace("an attempt that ended otherwise delivers", attempts, "deliverable", _true)
_replace("the winner does not end the others", attempts, "_supersede", nothing)
_replace("two runs on a slot", attempts, "_slot_taken", lambda *_: False)
_replace("a successor without the end of the suspect", attempts, "_end_suspect", nothing)


@_bug
def a_foreign_worker_writes() -> Iterator[None]:
    def own(session: Session, attempt: str, _worker: str) -> t.Attempt:
        row = session.get(t.Attempt, attempt)
        if row is None:
            raise ConflictError("no such attempt")
        return row

    with patch.object(attempts, "_own_attempt", own):
        yield


@_bug
def an_old_session_goes_on() -> Iterator[None]:
    with patch.object(attempts, "check_session", nothing), patch.object(sessions, "check_session", nothing):
        yield


@_bug
def a_late_result_is_thrown_away() -> Iterator[None]:
    def live(session: Session, attempt: str) -> bool:
        row = session.get(t.Attempt, attempt)
        return row is not None and row.state in t.LIVE

    with patch.object(attempts, "deliverable", live):
        yield


@_bug
def another_delivery_gets_the_run() -> Iterator[None]:
    def claim(session: Session, run: str, worker: t.Worker, request: protocol.ClaimRequest, now: float) -> Any:
        row = session.get(t.Run, run)
        if row is not None and row.state == "claimed":
            request = request.model_copy(update={"delivery": row.delivery})
        return real(session, run, worker, request, now)

    real = lifecycle.claim
    with patch.object(lifecycle, "claim", claim):
        yield


# Records


def _enter_early(session: Session, attempt: str, result: protocol.ResultRequest) -> None:
    row = session.get_one(t.Attempt, attempt)
    for record in result.records:
        insert_or_ignore(session, t.Record(job=row.job, attempt=attempt, **record.model_dump()))


@_bug
def records_enter_with_a_checkpoint() -> Iterator[None]:
    def checkpoint(session: Session, attempt: str, *rest: Any) -> None:
        real(session, attempt, *rest)
        result = protocol.ResultRequest(records=[protocol.RecordIn(item="q1", name="score", value=0.0)])
        _enter_early(session, attempt, result)

    real = lifecycle.checkpoint
    with patch.object(lifecycle, "checkpoint", checkpoint):
        yield


@_bug
def a_refused_result_leaves_its_records() -> Iterator[None]:
    def accept(session: Session, attempt: str, worker: str, result: protocol.ResultRequest, now: float) -> bool:
        try:
            return real(session, attempt, worker, result, now)
        except ConflictError:
            event.listen(session, "after_rollback", lambda _: enter(attempt, result, session.get_bind()), once=True)
            raise

    def enter(attempt: str, result: protocol.ResultRequest, engine: Any) -> None:
        with database.writing(engine) as session:
            if session.get(t.Attempt, attempt) is not None:
                _enter_early(session, attempt, result)

    real = lifecycle.accept
    with patch.object(lifecycle, "accept", accept):
        yield


# Artifacts


@_bug
def accept_without_touch() -> Iterator[None]:
    def require(session: Session, sha: str, _now: float) -> None:
        artifact = session.get(t.Artifact, sha)
        if artifact is None or artifact.state != "whole":
            raise ConflictError("missing")

    with patch.object(attempts, "require_whole", require):
        yield


@_bug
def accept_of_a_doomed_file() -> Iterator[None]:
    def require(session: Session, sha: str, now: float) -> None:
        artifact = session.get(t.Artifact, sha)
        if artifact is None:
            raise ConflictError("missing")
        artifact.touched_at = now

    with patch.object(attempts, "require_whole", require):
        yield


@contextmanager
def _also_doomed(kept: Callable[[Session], set[str]]) -> Iterator[None]:
    """The collector overlooks that these are needed."""

    def doom(session: Session, before: float, now: float, only: str | None = None) -> list[str]:
        doomed = real(session, before, now, only)
        for sha in sorted(kept(session)):
            artifact = session.get(t.Artifact, sha)
            if artifact is not None and artifact.touched_at < before:
                artifact.state = "doomed"
                doomed.append(sha)
        return doomed

    real = lifecycle.doom
    with patch.object(lifecycle, "doom", doom):
        yield


def _inputs(session: Session) -> set[str]:
    return {given["source"]["sha"] for given in session.exec(select(t.Study.inputs)).all()}


def _checkpoints(session: Session) -> set[str]:
    return {sha for sha in session.exec(select(t.Job.checkpoint)).all() if sha}


BUGS["inputs are collected"] = lambda: _also_doomed(_inputs)
BUGS["checkpoints are collected"] = lambda: _also_doomed(_checkpoints)


@_bug
def a_doomed_file_that_is_sent_again_stays_doomed() -> Iterator[None]:
    def know(session: Session, sha: str, size: int, now: float, sender: str = "") -> None:
        known = session.get(t.Artifact, sha)
        if known is None or known.state == "whole":
            real(session, sha, size, now, sender)

    real = lifecycle.know
    with patch.object(lifecycle, "know", know):
        yield


@_bug
def a_whole_file_is_removed() -> Iterator[None]:
    def forget(session: Session, sha: str) -> None:
        artifact = session.get(t.Artifact, sha)
        if artifact is not None:
            session.delete(artifact)

    def doom(session: Session, before: float, now: float, only: str | None = None) -> list[str]:
        doomed = real(session, before, now, only)
        with session.no_autoflush:
            return doomed or list(session.exec(select(t.Artifact.sha).order_by(t.Artifact.sha)))[:1]

    real = lifecycle.doom
    with patch.object(lifecycle, "forget", forget), patch.object(lifecycle, "doom", doom):
        yield


# Leases and sessions


@_bug
def reaping_right_after_an_outage() -> Iterator[None]:
    real = lifecycle.reap
    with patch.object(lifecycle, "reap", lambda session, offer_s, now, leases: real(session, offer_s, now, True)):
        yield


@_bug
def offers_that_nobody_claims_stay() -> Iterator[None]:
    real = lifecycle.reap
    with patch.object(lifecycle, "reap", lambda session, _offer_s, now, leases: real(session, 1e9, now, leases)):
        yield


@_bug
def an_expired_lease_loses_the_attempt() -> Iterator[None]:
    def lose(session: Session, attempt: t.Attempt, now: float) -> None:
        attempts.end_attempt(session, attempt, "lost", "its worker's lease expired", "", now)

    with patch.object(sessions, "_suspect", lose):
        yield


@_bug
def an_older_report_closes_the_run() -> Iterator[None]:
    def heartbeat(session: Session, worker: t.Worker, request: protocol.HeartbeatRequest, *rest: Any) -> bool:
        slots = [report.model_copy(update={"run": _open_run(session, worker, report)}) for report in request.slots]
        return real(session, worker, request.model_copy(update={"slots": slots}), *rest)

    real = lifecycle.heartbeat
    with patch.object(lifecycle, "heartbeat", heartbeat):
        yield


def _open_run(session: Session, worker: t.Worker, report: protocol.SlotReport) -> str | None:
    query = select(t.Run.id).where(t.Run.worker == worker.id, t.Run.slot == report.idx, t.Run.state != "closed")
    return session.exec(query).first()


@_bug
def a_heartbeat_revives_a_replaced_attempt() -> Iterator[None]:
    def note(session: Session, worker: t.Worker, seen: protocol.AttemptReport, now: float) -> None:
        attempt = session.get(t.Attempt, seen.attempt)
        if attempt is not None and (attempt.state, attempt.reason) == ("ended", "lost"):
            attempt.state, attempt.reason = seen.phase, None
        real(session, worker, seen, now)

    real = sessions._note
    with patch.object(sessions, "_note", note):
        yield


_replace("what a worker dropped goes on for ever", sessions, "_end_forgotten", nothing)


@_bug
def hello_loses_finished_results() -> Iterator[None]:
    def hello(session: Session, worker: t.Worker, request: protocol.HelloRequest, *rest: Any) -> list[str]:
        real(session, worker, request.model_copy(update={"undelivered": []}), *rest)
        return [attempt for attempt in request.undelivered if not attempts.deliverable(session, attempt)]

    real = lifecycle.hello
    with patch.object(lifecycle, "hello", hello):
        yield


@_bug
def a_slot_is_free_when_its_attempt_ended() -> Iterator[None]:
    def close(session: Session, attempt: t.Attempt) -> None:
        session.get_one(t.Run, attempt.run).state = "closed"

    with patch.object(attempts, "_close_offer", close):
        yield


# What an end means for a job


@contextmanager
def _charging(
    change: Callable[[t.Job, str, dict[str, Any]], None],
) -> Iterator[None]:
    """`change(job, reason, before)` has the last word on what an end counts for."""

    def charge(session: Session, job: t.Job, attempt: t.Attempt, reason: str) -> None:
        before = job.model_dump()
        real(session, job, attempt, reason)
        change(job, reason, before)

    real = attempts._charge
    with patch.object(attempts, "_charge", charge):
        yield


def _count_unclaimed(job: t.Job, reason: str, _before: dict[str, Any]) -> None:
    job.losses += reason == "unclaimed"


def _keep_checkpoints(job: t.Job, _reason: str, before: dict[str, Any]) -> None:
    for name in ("checkpoint", "position", "checkpoint_prev", "position_prev"):
        setattr(job, name, before[name])


def _charge_losses(job: t.Job, reason: str, _before: dict[str, Any]) -> None:
    job.charges += reason == "lost"


BUGS["unclaimed counts as a loss"] = lambda: _charging(_count_unclaimed)
BUGS["a crash does not fall back"] = lambda: _charging(_keep_checkpoints)
BUGS["a loss is charged"] = lambda: _charging(_charge_losses)


@_bug
def one_worker_is_enough_for_quarantine() -> Iterator[None]:
    with patch.object(attempts, "_charged_widely", _true):
        yield


@_bug
def a_job_that_kills_its_workers_is_tried_for_ever() -> Iterator[None]:
    def given_up(session: Session, job: t.Job, reason: str, message: str, now: float) -> tuple[str, str] | None:
        verdict = real(session, job, reason, message, now)
        return None if verdict and verdict[0] == "quarantined" else verdict

    real = attempts._given_up
    with patch.object(attempts, "_given_up", given_up):
        yield


@_bug
def giving_up_skips_nobody() -> Iterator[None]:
    def give_up(session: Session, job: t.Job, state: str, error: str, now: float) -> None:
        job.error = error
        attempts.set_job(session, job, state, now)

    with patch.object(attempts, "give_up", give_up):
        yield


_replace("a job is ready before all its needs are", jobs, "needs_done", _true)
_replace("what was skipped stays skipped", jobs, "_unskip", nothing)


@_bug
def a_checkpoint_may_go_back() -> Iterator[None]:
    def checkpoint(
        session: Session, attempt: str, worker: str, request: protocol.CheckpointRequest, now: float
    ) -> None:
        row = session.get(t.Attempt, attempt)
        if row is not None and row.worker == worker and row.state in ("running", "delivering", "suspect"):
            job = session.get_one(t.Job, row.job)
            job.position = min(job.position, request.position - 1)
        real(session, attempt, worker, request, now)

    real = lifecycle.checkpoint
    with patch.object(lifecycle, "checkpoint", checkpoint):
        yield


# Studies


_replace("listing twice fails", studies, "_listed", lambda *_: set())


@_bug
def cancelling_stops_what_another_study_wants() -> Iterator[None]:
    def desired(session: Session, worker: str) -> dict[str, str]:
        cancelled = select(t.StudyJob.job).join(t.Study, col(t.Study.id) == col(t.StudyJob.study))
        unwanted = select(t.Attempt.id).where(
            col(t.Attempt.job).in_(cancelled.where(t.Study.state == "cancelled")),
        )
        stopped = set(session.exec(unwanted).all())
        return {attempt: "stop" if attempt in stopped else wish for attempt, wish in real(session, worker).items()}

    real = queries.desired
    with patch.object(queries, "desired", desired):
        yield


@_bug
def jobs_of_a_paused_study_are_assigned() -> Iterator[None]:
    def ready(session: Session, now: float) -> list[scheduler.ReadyJob]:
        paused = (
            select(t.Job)
            .join(t.StudyJob, col(t.StudyJob.job) == col(t.Job.id))
            .join(t.Study, col(t.Study.id) == col(t.StudyJob.study))
            .where(t.Study.state == "paused", t.Job.state == "ready")
        )
        found = real(session, now)
        more = {job.id: job for job in session.exec(paused).all() if job.id not in {known.id for known in found}}
        return found + [scheduler.ReadyJob(job.id, job.kind, 0, (0.0,)) for job in more.values()]

    real = assigning.ready_jobs
    with patch.object(assigning, "ready_jobs", ready):
        yield


@_bug
def a_full_disk_excludes_nobody() -> Iterator[None]:
    with patch.object(queries, "full_disks", lambda *_: set()):
        yield


@_bug
def a_retry_keeps_the_charges() -> Iterator[None]:
    def revive(session: Session, revived: Any, now: float) -> None:
        before = {job.id: job.charges for job in revived}
        real(session, revived, now)
        for job in revived:
            job.charges = before[job.id]

    real = studies.revive
    with patch.object(studies, "revive", revive):
        yield


# Events and transactions


@_bug
def event_numbers_have_gaps() -> Iterator[None]:
    def log(session: Session, now: float, what: str, **about: Any) -> None:
        if what == "attempt ended":  # as a sequence does when a transaction is rolled back
            bump = update(t.Counter).where(col(t.Counter.name) == "event").values(value=t.Counter.value + 1)
            session.connection().execute(bump)
        real(session, now, what, **about)

    real = attempts.log
    with ExitStack() as stack:
        for module in (attempts, files, jobs, sessions, studies):
            stack.enter_context(patch.object(module, "log", log))
        yield


@_bug
def a_change_without_its_event() -> Iterator[None]:
    def log(session: Session, now: float, what: str, **about: Any) -> None:
        if what != "attempt suspect":
            real(session, now, what, **about)

    real = sessions.log
    with patch.object(sessions, "log", log):
        yield


@_bug
def writers_do_not_wait_for_each_other() -> Iterator[None]:
    with patch.object(database, "_writes", lambda _: False):
        yield
