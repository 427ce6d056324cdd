"""What a study's jobs have measured: cells for the stage tables and the verdicts, records, the data's report.

No function here writes.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlmodel import Session, col, select

from jsm_queue.errors import NotFoundError
from jsm_queue.planner import TERMINAL
from jsm_queue.store import tables as t
from jsm_queue.store.queries import find_job


def comparisons(session: Session, study: str) -> dict[str, list[dict[str, Any]]]:
    """Stage → one row a cell and split: NLL, score, and the cell's metrics as `<kind>.<name>`."""
    cells: dict[tuple[str, str, str], dict[str, Any]] = {}
    for view in ("cell_nll", "cell_score"):
        for row in session.connection().execute(text(f"SELECT * FROM {view} WHERE study = :study"), {"study": study}):
            values = dict(row._mapping)
            key = (values["stage"], values["cell"], values["split"])
            cells.setdefault(key, {}).update({k: v for k, v in values.items() if k not in ("study", "stage")})
    metrics = cell_metrics(session, study)
    found: dict[str, list[dict[str, Any]]] = {"scale": [], "bases": [], "quantization": []}
    for (stage, cell, _), values in sorted(cells.items()):
        found[stage].append(values | metrics.get((stage, cell), {}))
    return found


def cell_metrics(session: Session, study: str) -> dict[tuple[str, str], dict[str, float]]:
    """(stage, cell) → the metrics of its done jobs as `<kind>.<name>`."""
    rows = session.connection().execute(text("SELECT * FROM cell_metric WHERE study = :study"), {"study": study})
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in rows:
        found[row.stage, row.cell][f"{row.kind}.{row.name}"] = row.value
    return dict(found)


class CellRecord(NamedTuple):
    """One record of a cell."""

    cell: str
    base: str
    n: int | None
    seed: int | None
    format: str | None
    item: str
    name: str
    value: float


def cell_records(
    session: Session, study: str, stage: str, kind: str, split: str, names: Collection[str]
) -> Iterator[CellRecord]:
    """The records of those names of a stage's done jobs of a kind, on a split: ordered by cell, item and name."""
    listing = t.StudyJob
    query = (
        select(listing.cell, listing.base, listing.n, listing.seed, listing.format, t.Job.id, t.Job.params)  # type: ignore[call-overload]
        .join(t.Job, col(t.Job.id) == col(listing.job))
        .where(listing.study == study, listing.stage == stage, t.Job.kind == kind, t.Job.state == "done")
        .order_by(listing.cell, listing.job)
    )
    listings = [row for row in session.exec(query) if row.params.get("split", split) == split]
    measured = (
        select(t.Record.job, t.Record.item, t.Record.name, t.Record.value)
        .where(col(t.Record.job).in_(query.with_only_columns(t.Job.id).order_by(None)))
        .where(col(t.Record.name).in_(names))
        .order_by(t.Record.job, t.Record.item, t.Record.name)
    )
    records: dict[str, list[tuple[str, str, float]]] = defaultdict(list)
    for job, item, name, value in session.exec(measured):
        records[job].append((item, name, value))
    for *cell, job, _ in listings:
        yield from (CellRecord(*cell, *record) for record in records[job])  # type: ignore[call-arg]


def missing_cells(session: Session, study: str, stage: str) -> list[str]:
    """The cells of a stage with a job that ended without a result, ordered."""
    query = (
        select(t.StudyJob.cell)
        .join(t.Job, col(t.Job.id) == col(t.StudyJob.job))
        .where(t.StudyJob.study == study, t.StudyJob.stage == stage, col(t.Job.state).in_(TERMINAL - {"done"}))
    )
    return sorted(set(session.exec(query).all()))


def records(session: Session, study: str, job: str | None, name: str | None, after: int, limit: int) -> list[t.Record]:
    """A page of a study's records, in the order of (job, item, name); `after`: how many to skip."""
    query = select(t.Record).where(col(t.Record.job).in_(select(t.StudyJob.job).where(t.StudyJob.study == study)))
    if job:
        query = query.where(t.Record.job == find_job(session, job).id)
    if name:
        query = query.where(t.Record.name == name)
    order = (col(t.Record.job), col(t.Record.item), col(t.Record.name))
    return list(session.exec(query.order_by(*order).offset(after).limit(limit)))


def data_report(session: Session, study: t.Study) -> str:
    """sha of the report that the study's prepare job made of its data. Raises NotFoundError before that is done."""
    query = (
        select(t.ArtifactRef.sha)
        .join(t.StudyJob, col(t.StudyJob.job) == col(t.ArtifactRef.job))
        .where(t.StudyJob.study == study.id, t.ArtifactRef.role == "data_report")
    )
    sha = session.exec(query.order_by(t.ArtifactRef.sha)).first()
    if sha is None:
        raise NotFoundError(
            f"Study {study.id[:12]} has no data report yet: its prepare job is not done",
            f"`jsm jobs {study.id[:12]}` says why",
        )
    return sha
