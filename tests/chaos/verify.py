"""What must hold when all is over, whatever happened."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from jsm_queue.canonical import canonical_json
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from tests.chaos.pool import WORKERS, ChaosPool


def outcome(pool: ChaosPool, study: str) -> dict[str, Any]:
    """What no fault may change: jobs, records, metrics, files, and the bytes of the decisions.

    Records carry no timings here, as the kinds are deterministic.
    """
    with reading(pool.store) as session:
        verdicts = session.exec(select(t.VerdictRow).where(t.VerdictRow.study == study)).all()
        listed = select(t.StudyJob.job).where(t.StudyJob.study == study)
        jobs = session.exec(select(t.Job).where(col(t.Job.id).in_(listed))).all()
        records = session.exec(select(t.Record).where(col(t.Record.job).in_(listed))).all()
        metrics = session.exec(select(t.Metric).where(col(t.Metric.job).in_(listed))).all()
        refs = session.exec(select(t.ArtifactRef).where(col(t.ArtifactRef.job).in_(listed))).all()
        return {
            "jobs": sorted((job.id, job.kind, job.state) for job in jobs),
            "records": sorted((r.job, r.item, r.name, r.value) for r in records),
            "metrics": sorted((m.job, m.name, m.value) for m in metrics),
            "files": sorted((ref.job, ref.role, ref.sha) for ref in refs),
            "decisions": sorted((v.stage, v.look, canonical_json(v.decision).decode()) for v in verdicts),
        }


def problems(pool: ChaosPool, found: dict[str, Any], calm: dict[str, Any]) -> list[str]:
    """In words; empty when everything is as it must be."""
    with reading(pool.store) as session:
        wrong = lost(found) + doubled(session) + orphans(session) + under_way(session)
        known = session.exec(select(t.Artifact.sha).where(t.Artifact.state == "whole")).all()
    wrong += [f"{part} are not those of the calm run" for part in calm if found[part] != calm[part]]
    wrong += [f"{worker}: {path.name} is left" for worker in WORKERS for path in leftovers(pool.home / worker)]
    return wrong + broken(pool.home / "artifacts", known)


def lost(found: dict[str, Any]) -> list[str]:
    """Jobs that did not get done."""
    return [f"lost: {kind} {job[:12]} is {state}" for job, kind, state in found["jobs"] if state != "done"]


def doubled(session: Session) -> list[str]:
    """Jobs with other than one accepted result."""
    accepted = Counter(session.exec(select(t.Attempt.job).where(t.Attempt.state == "accepted")).all())
    done = session.exec(select(t.Job.id).where(t.Job.state == "done")).all()
    return [f"doubled: job {job[:12]} has {accepted[job]} accepted attempts" for job in done if accepted[job] != 1]


def orphans(session: Session) -> list[str]:
    """Records of no accepted attempt."""
    query = select(t.Record.job, t.Record.attempt, t.Job.accepted_attempt).join(
        t.Job, col(t.Job.id) == col(t.Record.job), isouter=True
    )
    found = {(job, attempt) for job, attempt, accepted in session.exec(query.distinct()) if attempt != accepted}
    return [f"orphans: records of job {job[:12]} by attempt {attempt[:12]}" for job, attempt in sorted(found)]


def under_way(session: Session) -> list[str]:
    """What the store still believes to run."""
    live = session.exec(select(t.Attempt).where(col(t.Attempt.state).in_(t.LIVE))).all()
    names = {worker.id: worker.name for worker in session.exec(select(t.Worker))}
    honest = [attempt for attempt in live if names[attempt.worker] in WORKERS]
    return [f"attempt {attempt.id[:12]} of {names[attempt.worker]} is {attempt.state}" for attempt in honest]


def leftovers(home: Path) -> list[Path]:
    """What an agent has in work or to deliver."""
    return [path for folder in ("work", "outbox") for path in (home / folder).glob("*")]


def broken(root: Path, known: Sequence[str]) -> list[str]:
    """Files that count as whole and are not, or that the store takes for whole and that are not there.

    One that is doomed may be gone: an api that dies after it removed the file has not forgotten it yet.
    """
    files = list(root.glob("[0-9a-f][0-9a-f]/*"))
    wrong = [f"{f.name[:12]} is broken" for f in files if hashlib.sha256(f.read_bytes()).hexdigest() != f.name]
    return wrong + [f"{sha[:12]} is known and not there" for sha in known if not (root / sha[:2] / sha).is_file()]
