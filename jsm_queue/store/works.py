"""What jobs are made of, from what studies say of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from sqlmodel import Session, col, select

from jsm_queue.costs import SlotClass, StudyFacts, Task, study_facts, task
from jsm_queue.errors import SpecError
from jsm_queue.kinds import BaseRef, Inputs
from jsm_queue.spec import parse_spec
from jsm_queue.store import queries
from jsm_queue.store import tables as t


@dataclass(frozen=True)
class Known:
    """What a study says of its jobs. `bases`: name → the base; `files`: name → the hashes of its files."""

    facts: StudyFacts
    bases: Mapping[str, str]
    files: Mapping[str, frozenset[str]]
    _tasks: dict[tuple[Any, ...], Task] = field(default_factory=dict, compare=False)

    def task(self, kind: str, params: Mapping[str, Any], listing: Any) -> Task:
        """A job's work. `listing`: the study's, with stage, base, n and format. Equal ones are one object."""
        cells = tuple(params.get("cells") or ())
        key = (
            kind,
            listing.stage,
            listing.base,
            listing.n,
            listing.format,
            params.get("split"),
            params.get("format"),
            cells,
        )
        found = self._tasks.get(key)
        if found is None:
            found = task(kind, params, self.facts, listing.stage, listing.base, listing.n, listing.format)
            self._tasks[key] = found
        return found


def known(study: t.Study) -> Known | None:
    """None where this version cannot read the study's spec: the planner says so."""
    return _known(study.id, json.dumps(study.spec, sort_keys=True), json.dumps(study.inputs, sort_keys=True))


@lru_cache(maxsize=64)
def _known(_study: str, spec: str, inputs: str) -> Known | None:
    try:
        read, given = parse_spec(json.loads(spec)), Inputs.model_validate(json.loads(inputs))
    except (SpecError, ValueError):
        return None
    return Known(
        study_facts(read, given.facts),
        {name: base.key for name, base in given.bases.items()},
        {name: _files(base) for name, base in given.bases.items()},
    )


def _files(base: BaseRef) -> frozenset[str]:
    return frozenset(base.files.values())


class Listed(NamedTuple):
    """A listing of a ready job in a running study. Equal ones stand for the same work: a job's and a listing's other
    columns never change.
    """

    id: str
    study: str
    stage: str
    cell: str
    memory_needed: int
    solo: bool
    priority: int


def ready(session: Session) -> list[Listed]:
    """All of them. Each look reads them, and there may be thousands, so neither objects nor parameters."""
    query = (
        select(  # type: ignore[call-overload]
            t.Job.id, t.StudyJob.study, t.StudyJob.stage, t.StudyJob.cell, t.Job.memory_needed, t.Job.solo,
            t.Study.priority,
        )
        .join(t.StudyJob, col(t.StudyJob.job) == col(t.Job.id))
        .join(t.Study, col(t.Study.id) == col(t.StudyJob.study))
        .where(t.Job.state == "ready", t.Study.state == "running")
    )  # fmt: skip
    return list(map(Listed._make, session.connection().execute(query)))


def work_of(session: Session, job: t.Job) -> Task | None:
    """A job's work as the first study that lists it says; None where none does that can be read."""
    listing = session.exec(
        select(t.StudyJob).where(t.StudyJob.job == job.id).order_by(t.StudyJob.study, queries.stage_order()).limit(1)
    ).first()
    study = known(session.get_one(t.Study, listing.study)) if listing else None
    return study.task(job.kind, job.params, listing) if study else None


def slot_class(kind: str, idx: int, hardware: Mapping[str, Any] | None) -> SlotClass:
    """What jobs take on a worker's slot goes by its GPU, or by its CPU and how many cores that has."""
    hardware = hardware or {}
    gpus = hardware.get("gpus") or []
    if kind == "gpu":
        return SlotClass("gpu", gpus[idx] if idx < len(gpus) else "")
    return SlotClass("cpu", f"CPU {hardware.get('cpu', '')}, {hardware.get('cores', 1)} cores")
