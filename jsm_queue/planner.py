"""The planner: from a study's spec, its jobs' states and its verdicts so far, the jobs to add and the verdicts due.

Pure and independent of arrival order: it states the whole set of jobs that the study wants so far; what is listed
already is ignored by its hash. Failed jobs count as terminal, so no study hangs on a dead cell.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from jsm_queue.kinds import (
    AnswerParams,
    BaseRef,
    ConvertParams,
    FileRef,
    Inputs,
    JobDraft,
    JudgeParams,
    LatencyParams,
    ParityParams,
    PrepareParams,
    ScoreParams,
    TrainParams,
    draft,
)
from jsm_queue.spec import BaseSpec, BasesStage, DataSpec, Format, StudySpec

Stage = Literal["scale", "bases", "quantization"]
TERMINAL = frozenset({"done", "failed", "quarantined", "skipped"})

LATENCY_QUESTIONS = 8  # bench questions that are timed
LATENCY_REPEATS = 3  # times each
PARITY_PROMPTS = 4


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


def plan(study: Study) -> Plan:
    """What to add and what to decide next."""
    jobs: list[Wanted] = []
    due: list[Stage] = []
    ended = True
    for stage, look in stages(study):
        jobs += look
        if any(study.states.get(wanted.job.id) not in TERMINAL for wanted in look if wanted.stage == stage):
            ended = False
        elif stage not in study.decisions:
            due.append(stage)
            ended = False
    return Plan(_needs_first(jobs), due, ended)


def _needs_first(jobs: Sequence[Wanted]) -> list[Wanted]:
    """The same jobs, each once and after those that it needs, else in the given order."""
    first: dict[str, Wanted] = {}
    for wanted in jobs:
        first.setdefault(wanted.job.id, wanted)
    placed: dict[tuple[str, str, str], Wanted] = {}

    def place(wanted: Wanted) -> None:
        if wanted.listing not in placed:
            for need in wanted.job.needs.values():
                place(first[need])
            placed[wanted.listing] = wanted

    for wanted in jobs:
        place(wanted)
    return list(placed.values())


def stages(study: Study) -> Iterator[tuple[Stage, list[Wanted]]]:
    """The stages that can be laid out by now, each with all its jobs so far."""
    spec, decisions = study.spec, study.decisions
    if spec.stages.scale:
        if "scale" not in decisions:
            yield "scale", _scale(study) + (_untrained(study) if spec.stages.bases else [])
            return
        yield "scale", _scale(study)
        if decisions["scale"].get("n") is None:
            return
    if spec.stages.bases:
        yield "bases", _with_latency(study, "bases", _bases(study))
    if spec.stages.quantization and chosen_bases(spec, decisions):
        yield "quantization", _with_latency(study, "quantization", _quantization(study))


def chosen_n(spec: StudySpec, decisions: Mapping[str, Mapping[str, Any]]) -> int | None:
    """The training size of stages 2 and 3: stage 1's n*, or the spec's own; None where nothing is trained."""
    if spec.stages.scale:
        return decisions.get("scale", {}).get("n")
    stage = spec.stages.bases or spec.stages.quantization
    return stage.n if stage else None


def chosen_bases(spec: StudySpec, decisions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The bases of stage 3: stage 2's choice, or those that the spec names, or stage 1's; none while there is none."""
    stages = spec.stages
    if stages.bases:
        return decisions.get("bases", {}).get("chosen", [])
    named = stages.quantization.bases if stages.quantization else None
    return named or ([stages.scale.base] if stages.scale else [])


def seeds(spec: StudySpec) -> list[int]:
    """The seeds of stages 2 and 3. The first of them is the one that is timed, and whose answers are shown."""
    stages = spec.stages
    if stages.bases:
        return stages.bases.seeds
    own = stages.quantization.seeds if stages.quantization else None
    return own or (stages.scale.seeds if stages.scale else BasesStage().seeds)


def answer_format(spec: StudySpec) -> Format:
    """The format in which stages 1 and 2 answer questions."""
    return (spec.stages.bases or BasesStage()).answer_format


def used_bases(spec: StudySpec) -> list[BaseSpec]:
    """The bases that some stage may measure: all of them where stage 2 is not left out."""
    if spec.stages.bases:
        return spec.bases
    names = {*chosen_bases(spec, {})} if spec.stages.quantization else set()
    names |= {spec.stages.scale.base} if spec.stages.scale else set()
    return [base for base in spec.bases if base.name in names]


def _scale(study: Study) -> list[Wanted]:
    """Validation NLL of every cell; after the verdict also the test set's."""
    scale = study.spec.stages.scale
    assert scale is not None
    base = study.spec.base(scale.base)
    untrained = Cell("scale", base.name)
    trained = [Cell("scale", base.name, n, seed) for n in scale.sizes for seed in scale.seeds]
    jobs = [Wanted("scale", None, study.prepare)]
    for cell in [untrained, *trained]:
        jobs += [*_fine_tuning(study, cell), Wanted("scale", cell, _score(study, cell, "validation"))]
    if "scale" in study.decisions:
        n = study.decisions["scale"].get("n")
        for cell in [untrained, *trained]:
            if scale.read_test == "all" or cell.n in (None, n):
                jobs.append(Wanted("scale", cell, _score(study, cell, "test")))
            if scale.read_test == "all":
                jobs += _judged(study, cell, answer_format(study.spec), "test")
    return jobs


def _bases(study: Study) -> list[Wanted]:
    """Every base untrained and, where the spec trains it, at n with each seed, or with the adapter that is given:
    NLL, parity, answers, scores.
    """
    jobs = [Wanted("bases", None, study.prepare), *_untrained(study)]
    for base in study.spec.bases:
        for cell in _tuned(study, "bases", base) if base.tuned else []:
            jobs += _fine_tuning(study, cell) + _measured(study, cell)
    return jobs


def _tuned(study: Study, stage: Stage, base: BaseSpec) -> list[Cell]:
    """The base at n with each seed, or as it is given: with its adapter or without one."""
    if not base.train:
        return [Cell(stage, base.name, adapter=base.adapter is not None)]
    n = chosen_n(study.spec, study.decisions)
    return [Cell(stage, base.name, n, seed) for seed in seeds(study.spec)]


def _untrained(study: Study) -> list[Wanted]:
    """Stage 2's baselines. They wait for no verdict, so they fill slots that stage 1 leaves idle."""
    return [wanted for base in study.spec.bases for wanted in _measured(study, Cell("bases", base.name))]


def _measured(study: Study, cell: Cell) -> list[Wanted]:
    fmt = answer_format(study.spec)
    score, parity = _score(study, cell, "test"), _parity(study, cell, fmt, "model")
    return [
        Wanted(cell.stage, cell, score),
        *_judged(study, cell, fmt, "bench"),
        Wanted(cell.stage, cell, parity),
    ]


def _quantization(study: Study) -> list[Wanted]:
    """The chosen bases in every format: scores, and the divergence to F16."""
    stage = study.spec.stages.quantization
    assert stage is not None
    jobs = []
    for name in chosen_bases(study.spec, study.decisions):
        for model in _tuned(study, "quantization", study.spec.base(name)):
            if not study.spec.stages.bases:
                jobs += _unmeasured(study, model, stage.formats)
            for fmt in stage.formats:
                cell = replace(model, format=fmt)
                jobs += _judged(study, cell, fmt, "bench")
                if fmt != "F16" and "F16" in stage.formats:
                    jobs.append(Wanted("quantization", cell, _parity(study, cell, fmt, "F16")))
    return jobs


def _unmeasured(study: Study, model: Cell, formats: Sequence[Format]) -> list[Wanted]:
    """What stage 2 would have done for a model: data, training, and whether its most precise GGUF is the model."""
    precise = min(formats, key=get_args(Format).index)
    parity = Wanted("quantization", replace(model, format=precise), _parity(study, model, precise, "model"))
    return [Wanted("quantization", None, study.prepare), *_fine_tuning(study, model), parity]


def _with_latency(study: Study, stage: Stage, jobs: list[Wanted]) -> list[Wanted]:
    """The stage's jobs and, once all its converts are terminal, its one latency job over those that are done."""
    converts = [wanted for wanted in jobs if wanted.job.kind == "convert"]
    if any(study.states.get(wanted.job.id) not in TERMINAL for wanted in converts):
        # Without this the stage would look complete before the job exists.
        return jobs
    timed = [w for w in converts if study.states[w.job.id] == "done" and w.cell and _timed(study.spec, w.cell)]
    if timed:
        jobs.append(Wanted(stage, None, _latency(study, stage, timed)))
    return jobs


def _timed(spec: StudySpec, cell: Cell) -> bool:
    """One seed of each base is timed; untrained only a base that is measured no other way."""
    if cell.n is not None:
        return cell.seed == seeds(spec)[0]
    return cell.adapter or not spec.base(cell.base).tuned


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


def _train(study: Study, cell: Cell) -> JobDraft:
    """Of two cells that differ in their stage alone it is the same job."""
    assert cell.n is not None and cell.seed is not None
    key = (cell.base, cell.n, cell.seed)
    if key not in study.trains:
        study.trains[key] = _draft_train(study, cell, cell.n, cell.seed)
    return study.trains[key]


def _draft_train(study: Study, cell: Cell, n: int, seed: int) -> JobDraft:
    params = TrainParams(
        base=_base(study, cell),
        n=n,
        seed=seed,
        training=study.spec.training,
        system_prompt=study.spec.system_prompt,
    )
    return draft("train", params, {"dataset": study.prepare.id})


def _fine_tuning(study: Study, cell: Cell) -> list[Wanted]:
    return [] if cell.n is None else [Wanted(cell.stage, cell, _train(study, cell))]


def _score(study: Study, cell: Cell, split: Literal["validation", "test"]) -> JobDraft:
    params = ScoreParams(
        base=_base(study, cell),
        split=split,
        quantized=study.spec.training.quantized,
        max_length=study.spec.training.max_length,
        system_prompt=study.spec.system_prompt,
    )
    return draft("score", params, {"dataset": study.prepare.id} | _adapter(study, cell))


def _convert(study: Study, cell: Cell, fmt: Any) -> JobDraft:
    return draft("convert", ConvertParams(base=_base(study, cell), format=fmt), _adapter(study, cell))


def _judged(study: Study, cell: Cell, fmt: str, split: Literal["bench", "test"]) -> list[Wanted]:
    """A cell's GGUF, its answers, their scores."""
    dataset = {"dataset": study.prepare.id}
    convert = _convert(study, cell, fmt)
    answer = draft(
        "answer",
        AnswerParams(split=split, decoding=study.spec.decoding, system_prompt=study.spec.system_prompt),
        dataset | {"gguf": convert.id},
    )
    judge = draft("judge", _judge(study, split), dataset | {"answers": answer.id})
    return [Wanted(cell.stage, cell, job) for job in (convert, answer, judge)]


def _judge(study: Study, split: Literal["bench", "test"]) -> JudgeParams:
    given = study.inputs.judge
    return JudgeParams(
        judge=study.spec.judge,
        split=split,
        rubric=given.rubric if given else None,
        judge_file=given.file if given else None,
        study=study.id if study.spec.judge.kind == "openai" else None,
    )


def _parity(study: Study, cell: Cell, fmt: str, reference: Literal["model", "F16"]) -> JobDraft:
    needs = {"dataset": study.prepare.id, "gguf": _convert(study, cell, fmt).id}
    needs |= _adapter(study, cell) if reference == "model" else {"f16": _convert(study, cell, "F16").id}
    params = ParityParams(
        base=_base(study, cell),
        reference=reference,
        prompts=PARITY_PROMPTS,
        system_prompt=study.spec.system_prompt,
    )
    return draft("parity", params, needs)


def _latency(study: Study, stage: Stage, converts: Sequence[Wanted]) -> JobDraft:
    labels = [wanted.cell.label for wanted in converts if wanted.cell]
    params = LatencyParams(
        study=study.id,
        stage=stage,
        hardware=study.hardware,
        cells=labels,
        questions=LATENCY_QUESTIONS,
        repeats=LATENCY_REPEATS,
        decoding=study.spec.decoding,
        system_prompt=study.spec.system_prompt,
    )
    needs = {"dataset": study.prepare.id} | {f"gguf.{i}": w.job.id for i, w in enumerate(converts)}
    return draft("latency", params, needs)


def _adapter(study: Study, cell: Cell) -> dict[str, str]:
    return {} if cell.n is None else {"adapter": _train(study, cell).id}


def _base(study: Study, cell: Cell) -> BaseRef:
    base = study.inputs.bases[cell.base]
    return base if cell.adapter else base.bare


def preview(spec: StudySpec, inputs: Inputs) -> list[Wanted]:
    """The whole grid as it would be with n* the largest size and the first tuned bases chosen: for `jsm plan`."""
    decisions: dict[str, dict[str, Any]] = {}
    if spec.stages.bases:
        keep = spec.stages.quantization.keep if spec.stages.quantization else 1
        decisions["bases"] = {"chosen": [base.name for base in spec.bases if base.tuned][:keep]}
    if spec.stages.scale:
        decisions["scale"] = {"n": spec.stages.scale.sizes[-1]}
    states: dict[str, str] = {}
    while True:
        jobs = plan(Study("preview", spec, inputs, "any", states, decisions)).jobs
        if states.keys() == {wanted.job.id for wanted in jobs}:
            return jobs
        states = {wanted.job.id: "done" for wanted in jobs}
