"""Where artifacts lie that jobs need: table artifact_at."""

from collections import defaultdict
from collections.abc import Collection, Mapping

from sqlmodel import Session, col, func, select

from jsm_queue.scheduler import Files
from jsm_queue.store import tables as t

BIG = 50_000_000  # bytes; what is smaller is fetched at once


def of_bases(session: Session, bases: Mapping[str, Collection[str]]) -> dict[str, Files]:
    """Name → who has all the files of that base; `bases`: name → their hashes. One that nobody has is left out."""
    files = sorted({sha for shas in bases.values() for sha in shas})
    here: dict[str, set[str]] = defaultdict(set)
    for sha, worker in session.exec(
        select(t.ArtifactAt.sha, t.ArtifactAt.worker).where(col(t.ArtifactAt.sha).in_(files))
    ):
        here[sha].add(worker)
    sizes = dict(session.exec(select(t.Artifact.sha, t.Artifact.size).where(col(t.Artifact.sha).in_(list(here)))).all())
    found = {}
    for name, shas in bases.items():
        workers = (
            frozenset(set.intersection(*(here[sha] for sha in shas))) if shas and all(s in here for s in shas) else None
        )
        if workers:
            found[name] = Files(workers, sum(sizes.get(sha, 0) for sha in shas))
    return found


def of_inputs(session: Session, kinds: Collection[str]) -> dict[str, tuple[Files, ...]]:
    """Ready job of those kinds → who has each big file that its needs delivered."""
    query = (
        select(t.JobNeed.job, t.Artifact.sha, t.Artifact.size, t.ArtifactAt.worker)
        .join(t.Job, col(t.Job.id) == col(t.JobNeed.job))
        .join(t.ArtifactRef, col(t.ArtifactRef.job) == col(t.JobNeed.needs))
        .join(t.Artifact, col(t.Artifact.sha) == col(t.ArtifactRef.sha))
        .join(t.ArtifactAt, col(t.ArtifactAt.sha) == col(t.Artifact.sha))
        .where(t.Job.state == "ready", col(t.Job.kind).in_(sorted(kinds)), t.Artifact.size >= BIG)
    )
    found: dict[str, dict[str, tuple[int, set[str]]]] = defaultdict(dict)
    for job, sha, size, worker in session.exec(query):
        found[job].setdefault(sha, (size, set()))[1].add(worker)
    return {
        job: tuple(Files(frozenset(workers), size) for _, (size, workers) in sorted(files.items()))
        for job, files in found.items()
    }


def cached_bytes(session: Session, workers: Collection[str]) -> dict[str, int]:
    """Worker → bytes of the artifacts in its cache, which it may remove for others."""
    query = (
        select(t.ArtifactAt.worker, func.sum(t.Artifact.size))
        .join(t.Artifact, col(t.Artifact.sha) == col(t.ArtifactAt.sha))
        .where(col(t.ArtifactAt.worker).in_(sorted(workers)))
        .group_by(t.ArtifactAt.worker)
    )
    return {worker: int(size) for worker, size in session.exec(query)}
