"""From the store to the report's data. Reads only."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from sqlmodel import Session, col, select

from jsm_queue.artifacts import path_of
from jsm_queue.comparison import CellValues
from jsm_queue.data.examples import Example, read_examples
from jsm_queue.kinds import KINDS, Inputs
from jsm_queue.planner import TERMINAL, answer_format, seeds
from jsm_queue.report import data as d
from jsm_queue.report.build import LOSSES, STAGES, CellKey, Measured, Timed, build
from jsm_queue.settings import settings
from jsm_queue.spec import StudySpec, parse_spec
from jsm_queue.store import queries, results
from jsm_queue.store import tables as t
from jsm_queue.verdicts import Verdict

EXAMPLES = 8  # questions whose answers are shown side by side
FOUND = 3  # places that are named of each finding in the data


def collect(session: Session, study_id: str, artifacts: Path | None = None) -> d.ReportData:
    """The report of a study, whatever its state; a study that still runs has holes.

    `artifacts`: the folder that holds the dataset, by default the home folder's.
    """
    return build(measure(session, study_id, artifacts or settings().home / "artifacts"))


def measure(session: Session, study_id: str, artifacts: Path) -> Measured:
    """What the store knows of a study."""
    study = session.get_one(t.Study, study_id)
    spec = parse_spec(study.spec)
    questions = _artifact(session, study_id, artifacts, "bench")
    bench = {example.id: example for example in read_examples(questions)} if questions else {}
    verdicts = queries.verdicts(session, study_id)
    return Measured(
        spec=spec,
        study=_facts(session, study),
        data=_data(session, study_id),
        data_report=_data_report(_artifact(session, study_id, artifacts, "data_report")),
        verdicts={row.stage: Verdict(row.decision, row.evidence) for row in verdicts},
        rules_versions={row.stage: row.rules_version for row in verdicts},
        strata=_strata(_records(session, study_id, "scale", ["score", "judge"])),
        metrics=_metrics(session, study_id),
        timings=_timings(session, study_id),
        hardware=study.hardware or "",
        facts=Inputs.model_validate(study.inputs).facts,
        examples=_examples(session, study.id, spec, bench),
        losses=_losses(session, study_id),
        failed=_failed(session, study_id),
    )


def _facts(session: Session, study: t.Study) -> d.StudyFacts:
    listed = select(t.StudyJob.job).where(t.StudyJob.study == study.id)
    query = select(t.Attempt).where(col(t.Attempt.job).in_(listed), t.Attempt.state == "accepted")
    attempts = session.exec(query.order_by(t.Attempt.job)).all()
    provenance = [attempt.provenance for attempt in attempts if attempt.provenance]
    return d.StudyFacts(
        id=study.id,
        name=study.name,
        state=study.state,
        created_at=_time(study.created_at),
        ended_at=_time(study.ended_at),
        jobs=queries.job_counts(session, study.id),
        busy_seconds=round(sum((a.ended_at or 0) - a.started_at for a in attempts if a.started_at), 1),
        hardware=sorted({str(p["hardware_class"]) for p in provenance if p.get("hardware_class")}),
        versions=_versions(p.get("packages") or {} for p in provenance),
        training=study.spec["training"],
        judge=study.spec["judge"]["kind"],
    )


def _versions(packages: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Package → its version, or its versions where workers differ."""
    found: dict[str, set[str]] = defaultdict(set)
    for versions in packages:
        for name, version in versions.items():
            found[name].add(version)
    return {name: " and ".join(sorted(found[name])) for name in sorted(found)}


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _data(session: Session, study_id: str) -> d.DataSummary:
    query = (
        select(t.Metric.name, t.Metric.value)
        .join(t.StudyJob, col(t.StudyJob.job) == col(t.Metric.job))
        .join(t.Job, col(t.Job.id) == col(t.Metric.job))
        .where(t.StudyJob.study == study_id, t.Job.kind == "prepare")
    )
    return d.DataSummary(**{k: int(v) for k, v in session.exec(query).all() if k in d.DataSummary.model_fields})


def _artifact(session: Session, study_id: str, artifacts: Path, role: str) -> Path | None:
    """The dataset's file of that role; None where it is not there."""
    query = (
        select(t.ArtifactRef.sha)
        .join(t.StudyJob, col(t.StudyJob.job) == col(t.ArtifactRef.job))
        .where(t.StudyJob.study == study_id, t.ArtifactRef.role == role)
    )
    sha = session.exec(query.order_by(t.ArtifactRef.sha)).first()
    path = path_of(artifacts, sha) if sha else None
    return path if path and path.is_file() else None


def _data_report(path: Path | None) -> d.DataReport | None:
    """What `prepare` wrote, in short."""
    if path is None:
        return None
    report = json.loads(path.read_text(encoding="utf-8"))
    dropped: dict[str, list[str]] = defaultdict(list)
    for drop in report["dropped"]["examples"]:
        dropped[drop["reason"]].append(_dropped(drop))
    odd: dict[str, list[str]] = defaultdict(list)
    for split in report["oddities"].values():
        for what, ids in split.items():
            odd[what.replace("_", " ")] += ids
    for split in report["unsupported_numbers"].values():
        odd["number that no source states"] += [f"{name} ({', '.join(numbers)})" for name, numbers in split.items()]
    return d.DataReport(
        dropped=_findings(dropped),
        odd=_findings(odd),
        ignored_columns=[str(name) for name in report["ignored_columns"]],
    )


def _dropped(drop: Mapping[str, Any]) -> str:
    return f"{drop['id']} ({drop['split']} {drop['against']})" if drop["against"] else drop["id"]


def _findings(found: Mapping[str, list[str]]) -> list[d.Finding]:
    return [d.Finding(what=what, count=len(of), examples=of[:FOUND]) for what, of in sorted(found.items()) if of]


def _losses(session: Session, study_id: str) -> dict[str, dict[str, int]]:
    """LOSSES of the done jobs, each job once, by cell."""
    query = (
        select(t.StudyJob, t.Job.kind, t.Metric.name, t.Metric.value)
        .join(t.Job, col(t.Job.id) == col(t.StudyJob.job))
        .join(t.Metric, col(t.Metric.job) == col(t.Job.id))
        .where(t.StudyJob.study == study_id, t.Job.state == "done", t.Metric.value > 0)
        .order_by(t.StudyJob.cell)
    )
    found: dict[str, Counter[str]] = {name: Counter() for name in LOSSES}
    known: set[tuple[str, str]] = set()
    for listing, kind, name, value in session.exec(query).all():
        if f"{kind}.{name}" in LOSSES and (listing.job, name) not in known:
            known.add((listing.job, name))
            found[f"{kind}.{name}"][listing.cell] += int(value)
    return {name: dict(cells) for name, cells in found.items()}


def _failed(session: Session, study_id: str) -> dict[CellKey, list[str]]:
    """The kinds that ended without a result, by cell; those skipped only where nothing failed in the cell itself."""
    query = (
        select(t.StudyJob.stage, t.StudyJob.cell, t.Job.state, t.Job.kind)
        .join(t.Job, col(t.Job.id) == col(t.StudyJob.job))
        .where(t.StudyJob.study == study_id, col(t.Job.state).in_(TERMINAL - {"done"}))
    )
    found: dict[CellKey, dict[str, set[str]]] = defaultdict(lambda: {"failed": set(), "skipped": set()})
    for stage, cell, state, kind in session.exec(query).all():
        found[CellKey(stage, cell)]["skipped" if state == "skipped" else "failed"].add(kind)
    return {
        key: [kind for kind in KINDS if kind in (kinds["failed"] or kinds["skipped"])] for key, kinds in found.items()
    }


def _metrics(session: Session, study_id: str) -> dict[CellKey, dict[str, float]]:
    """Each cell's metrics as `<kind>.<name>`, `bits_per_byte` on the test set, and how many prompts parity read."""
    found = {CellKey(*key): dict(values) for key, values in results.cell_metrics(session, study_id).items()}
    for stage, rows in results.comparisons(session, study_id).items():
        for row in rows:
            if row["split"] == "test" and row.get("bits_per_byte") is not None:
                found.setdefault(CellKey(stage, row["cell"]), {})["bits_per_byte"] = row["bits_per_byte"]
    for stage in STAGES:
        read = Counter(r.cell.cell for r in _records(session, study_id, stage, ["parity"]) if r.record.name == "kl")
        for cell, prompts in read.items():
            found[CellKey(stage, cell)]["parity.prompts"] = prompts
    return found


class CellRecord(NamedTuple):
    """A record of a done job, with the cell that the study lists the job for."""

    cell: t.StudyJob
    job: t.Job
    record: t.Record


def _records(session: Session, study_id: str, stage: str, kinds: Iterable[str]) -> list[CellRecord]:
    """The records of a stage's done jobs of some kinds, in a fixed order."""
    query = (
        select(t.StudyJob, t.Job, t.Record)
        .join(t.Job, col(t.Job.id) == col(t.StudyJob.job))
        .join(t.Record, col(t.Record.job) == col(t.Job.id))
        .where(t.StudyJob.study == study_id, t.StudyJob.stage == stage)
        .where(t.Job.state == "done", col(t.Job.kind).in_(list(kinds)))
        .order_by(t.StudyJob.cell, t.Job.id, t.Record.item, t.Record.name)
    )
    return [CellRecord(*row) for row in session.exec(query).all()]


_MEASURES = {"nll": "tokens", "key_nll": "key_tokens", "score": None}
"""Record name → the record that is its weight."""


def _strata(records: Iterable[CellRecord]) -> dict[tuple[str, str], list[CellValues]]:
    """(measure, stratum) → cells of stage `scale`. Only some records carry the stratum of their item."""
    records = list(records)
    metas = {r.record.item: r.record.meta for r in records if r.record.meta}
    strata = {item: str(meta.get("stratum", "")) for item, meta in metas.items()}
    values: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    cells: dict[str, t.StudyJob] = {}
    for cell, job, record in records:
        stratum = "validation" if job.params["split"] == "validation" else strata.get(record.item, "")
        values[record.name, stratum, cell.cell][record.item] = record.value
        cells[cell.cell] = cell
    found: dict[tuple[str, str], list[CellValues]] = defaultdict(list)
    for (name, stratum, label), of in sorted(values.items()):
        if name in _MEASURES:
            weights = values.get((_MEASURES[name] or "", stratum, label), {})
            c = cells[label]
            found[name, stratum].append(CellValues(label, c.base or "", c.n, c.seed, c.format, of, weights, {}))
    return dict(found)


def _timings(session: Session, study_id: str) -> dict[CellKey, Timed]:
    found: dict[CellKey, Timed] = {}
    for stage in STAGES:
        for _, _, record in _records(session, study_id, stage, ["latency"]):
            meta = record.meta or {}
            timed = found.setdefault(CellKey(stage, meta["cell"]), Timed([], [], [], _device(meta)))
            of = {"seconds": timed.seconds, "ttft": timed.first_token, "tokens_per_second": timed.rate}
            of[record.name].append(record.value)
    return found


def _device(meta: Mapping[str, Any]) -> str:
    """A worker with a GPU may still answer on its CPU, where llama.cpp was built without CUDA."""
    threads = meta["threads"]
    return "on the GPU" if meta["device"] == "cuda" else f"on the CPU with {threads} thread{'s' * (threads != 1)}"


def _examples(session: Session, study: str, spec: StudySpec, bench: Mapping[str, Example]) -> list[d.ExampleQuestion]:
    """The first question of each category, with the answers of each base, untrained and of the first seed, and of
    each format.
    """
    seed, shared = seeds(spec)[0], answer_format(spec)
    shown: dict[str, dict[str, d.Answer]] = defaultdict(dict)  # label → item → answer
    categories: dict[str, str] = {}
    jobs: set[str] = set()
    for stage in ("bases", "quantization"):
        records = [r for r in _records(session, study, stage, ["answer", "judge"]) if r.cell.seed in (None, seed)]
        judged = {(r.cell.cell, r.record.item): r.record for r in records if r.record.name == "score"}
        answers = [r for r in records if r.record.name == "answer" and r.job.id not in jobs]
        jobs |= {r.job.id for r in answers}  # stage 2's format is the same job in stage 3
        for cell, _, record in answers:
            score = judged.get((cell.cell, record.item))
            shown[cell.cell][record.item] = _answer(cell.cell, cell.format or shared, record, score)
            categories[record.item] = (record.meta or {}).get("category", "")
    return [
        _example(item, bench.get(item), categories[item], [of[item] for of in shown.values() if item in of])
        for item in _first_of_each(categories, list(bench))[:EXAMPLES]
    ]


def _first_of_each(categories: Mapping[str, str], order: list[str]) -> list[str]:
    """The first item of each category, in the bench's order where it is known."""
    items = sorted(categories, key=lambda item: (order.index(item) if item in order else len(order), item))
    first = {categories[item]: item for item in reversed(items)}
    return [item for item in items if first[categories[item]] == item]


def _answer(label: str, fmt: str, answer: t.Record, judged: t.Record | None) -> d.Answer:
    meta, verdict = answer.meta or {}, (judged.meta or {}) if judged else {}
    return d.Answer(
        cell=label,
        format=fmt,
        text=str(meta.get("text", "")),
        score=judged.value if judged else None,
        found=[str(fact) for fact in verdict.get("found", [])],
        missing=[str(fact) for fact in verdict.get("missing", [])],
        cut=meta.get("stop") == "length",
    )


def _example(item: str, known: Example | None, category: str, answers: list[d.Answer]) -> d.ExampleQuestion:
    return d.ExampleQuestion(
        question=known.question if known else item,
        reference=known.answer if known else "",
        stratum=known.stratum if known else "",
        category=category,
        answers=answers,
    )
