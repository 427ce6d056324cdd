"""What a worker may touch: the attempts that it holds, and the artifacts and base models that their jobs name.

An attempt is held while it is live, and after it ended lost or cancelled as long as its complete result would still be
taken. Nothing here writes.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import or_
from sqlmodel import Session, col, select

from jsm_queue.store import tables as t

DELIVERABLE = ("lost", "cancelled")
"""How an attempt may have ended whose complete result still counts, while its job is not done."""


def held(session: Session, worker: str) -> list[t.Job]:
    """The jobs of the attempts that a worker holds, one an attempt."""
    query = (
        select(t.Job)
        .join(t.Attempt, col(t.Attempt.job) == col(t.Job.id))
        .where(t.Attempt.worker == worker, t.Job.state != "done")
        .where(or_(col(t.Attempt.state).in_(t.LIVE), col(t.Attempt.reason).in_(DELIVERABLE)))
        .order_by(t.Attempt.id)
    )
    return list(session.exec(query).all())


def may_read(session: Session, worker: str, sha: str) -> bool:
    """Does a job that the worker holds an attempt of name this artifact: as an input, in its base, as its checkpoint?

    What the worker sent itself it may have back.
    """
    if sent(session, worker, sha):
        return True
    jobs = held(session, worker)
    if any(sha in (job.checkpoint, job.checkpoint_prev) for job in jobs):
        return True
    if any(sha == leaf for job in jobs for _, _, leaf in leaves(job.params)):
        return True
    delivered = (
        select(t.ArtifactRef.sha)
        .join(t.JobNeed, col(t.JobNeed.needs) == col(t.ArtifactRef.job))
        .where(col(t.JobNeed.job).in_([job.id for job in jobs]), t.ArtifactRef.sha == sha)
    )
    return session.exec(delivered).first() is not None


def sent(session: Session, worker: str, sha: str) -> bool:
    """Did this worker send the artifact, every byte of it?"""
    return session.get(t.ArtifactFrom, (sha, worker)) is not None


def not_had(session: Session, worker: str, shas: Iterable[str]) -> list[str]:
    """Those of the artifacts that the worker neither sent nor was given: it cannot have made them."""
    return [sha for sha in dict.fromkeys(shas) if not may_read(session, worker, sha)]


def unused(session: Session, worker: str, since: float) -> dict[str, int]:
    """sha → size, of what a worker sent since then and no result and no checkpoint refers to."""
    checkpoints = [
        select(column).where(col(column).is_not(None)) for column in (t.Job.checkpoint, t.Job.checkpoint_prev)
    ]
    query = (
        select(t.Artifact.sha, t.Artifact.size)
        .join(t.ArtifactFrom, col(t.ArtifactFrom.sha) == col(t.Artifact.sha))
        .where(t.ArtifactFrom.worker == worker, t.Artifact.created_at >= since)
        .where(col(t.Artifact.sha).not_in(select(t.ArtifactRef.sha)))
    )
    for used in checkpoints:
        query = query.where(col(t.Artifact.sha).not_in(used))
    return dict(session.exec(query).all())


def may_fetch_base(session: Session, worker: str, repo: str, commit: str) -> bool:
    """Does a job that the worker holds an attempt of name this repository of the hub at this commit?"""
    bases = [job.params.get("base") for job in held(session, worker)]
    return any(
        isinstance(base, dict)
        and base.get("form") == "hub"
        and (base.get("repo"), base.get("revision")) == (repo, commit)
        for base in bases
    )


def leaves(params: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(folder, file name, sha) of the submitter's files that a job's params name."""
    return list(_leaves(params))


def _leaves(params: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for folder in ("source", "bench"):
        ref = params.get(folder)
        if isinstance(ref, dict):
            yield folder, folder + ref["suffix"], ref["sha"]
    judge = params.get("judge_file")
    if isinstance(judge, dict):
        yield "judge", "judge" + judge["suffix"], judge["sha"]
    base = params.get("base")
    if isinstance(base, dict):
        yield from (("base", name, sha) for name, sha in base["files"].items())
        # Where a trained adapter would lie, so kinds need not know which it is.
        yield from (("adapter", name, sha) for name, sha in base.get("adapter", {}).items())
