"""What the planner is asked about, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from jsm_queue.kinds import FileRef, Inputs, JobDraft, PrepareParams, draft
from jsm_queue.spec import DataSpec, StudySpec

Stage = Literal["scale", "bases", "quantization"]
TERMINAL = frozenset({"done", "failed", "quarantined", "skipped"})


@dataclass(frozen=True)
class Cell:
    """One grid point. `n` None: not trained by the study; `adapter`: with the adapter that is given.

    `format` None: not a GGUF yet.
    """

    stage: Stage
    base: str
    n: int | None = None
    seed: int | None = None
    format: str | None = None
    adapter: bool = False

    @property
    def label(self) -> str:
        """For people and for keys, e.g. "river-qwen2 n=250 seed=1 Q8_0", "mine adapter", "mine untrained"."""
        given = "adapter" if self.adapter else "untrained"
        parts = [self.base, given if self.n is None else f"n={self.n} seed={self.seed}", self.format or ""]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Wanted:
    """A job that a study wants for a cell; `cell` None: for the stage as a whole (prepare, latency)."""

    stage: Stage
    cell: Cell | None
    job: JobDraft

    @property
    def listing(self) -> tuple[str, str, str]:
        """(stage, the cell's label or "", job id): what the study's list of jobs knows it by."""
        return self.stage, self.cell.label if self.cell else "", self.job.id


@dataclass(frozen=True)
class Plan:
    """The jobs wanted so far, in order, and the stages whose verdict is due."""

    jobs: list[Wanted]
    due: list[Stage]
    ended: bool


def prepare_params(data: DataSpec, source: FileRef, bench: FileRef | None) -> PrepareParams:
    """What makes the dataset of a spec's data."""
    return PrepareParams(
        source=source,
        bench=bench,
        seed=data.seed,
        validation=data.validation,
        test_taught=data.test_taught,
        test_unseen=data.test_unseen,
        near_duplicate=data.near_duplicate,
        max_answer_chars=data.max_answer_chars,
    )


@dataclass(frozen=True)
class Study:
    """What the planner knows of a study. `states`: job id → state; `decisions`: stage → the verdict's decision."""

    id: str
    spec: StudySpec
    inputs: Inputs
    hardware: str
    states: Mapping[str, str]
    decisions: Mapping[str, Mapping[str, Any]]

    @cached_property
    def prepare(self) -> JobDraft:
        """Nearly every job needs it: it is drafted, and hashed, once a look."""
        return draft("prepare", prepare_params(self.spec.data, self.inputs.source, self.inputs.bench))

    @cached_property
    def trains(self) -> dict[tuple[str, int, int], JobDraft]:
        """(base, n, seed) → the training, as far as it was drafted in this look."""
        return {}
