"""From a study's spec, its jobs' states and its verdicts so far, the jobs to add and the verdicts due.

Pure and independent of arrival order: it states the whole set of jobs that the study wants so far; what is listed
already is ignored by its hash. Failed jobs count as terminal, so no study hangs on a dead cell.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args

from jsm_queue.kinds import Inputs
from jsm_queue.planner import drafts
from jsm_queue.planner.choices import answer_format, chosen_bases, chosen_n, seeds
from jsm_queue.planner.study import TERMINAL, Cell, Plan, Stage, Study, Wanted
from jsm_queue.spec import BaseSpec, Format, StudySpec


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


def _scale(study: Study) -> list[Wanted]:
    """Validation NLL of every cell; after the verdict also the test set's."""
    scale = study.spec.stages.scale
    assert scale is not None
    base = study.spec.base(scale.base)
    untrained = Cell("scale", base.name)
    trained = [Cell("scale", base.name, n, seed) for n in scale.sizes for seed in scale.seeds]
    jobs = [Wanted("scale", None, study.prepare)]
    for cell in [untrained, *trained]:
        jobs += [*drafts.fine_tuning(study, cell), Wanted("scale", cell, drafts.score(study, cell, "validation"))]
    if "scale" in study.decisions:
        n = study.decisions["scale"].get("n")
        for cell in [untrained, *trained]:
            if scale.read_test == "all" or cell.n in (None, n):
                jobs.append(Wanted("scale", cell, drafts.score(study, cell, "test")))
            if scale.read_test == "all":
                jobs += drafts.judged(study, cell, answer_format(study.spec), "test")
    return jobs


def _bases(study: Study) -> list[Wanted]:
    """Every base untrained and, where the spec trains it, at n with each seed, or with the adapter that is given:
    NLL, parity, answers, scores.
    """
    jobs = [Wanted("bases", None, study.prepare), *_untrained(study)]
    for base in study.spec.bases:
        for cell in _tuned(study, "bases", base) if base.tuned else []:
            jobs += drafts.fine_tuning(study, cell) + _measured(study, cell)
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
    score, parity = drafts.score(study, cell, "test"), drafts.parity(study, cell, fmt, "model")
    return [
        Wanted(cell.stage, cell, score),
        *drafts.judged(study, cell, fmt, "bench"),
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
                jobs += drafts.judged(study, cell, fmt, "bench")
                if fmt != "F16" and "F16" in stage.formats:
                    jobs.append(Wanted("quantization", cell, drafts.parity(study, cell, fmt, "F16")))
    return jobs


def _unmeasured(study: Study, model: Cell, formats: Sequence[Format]) -> list[Wanted]:
    """What stage 2 would have done for a model: data, training, and whether its most precise GGUF is the model."""
    precise = min(formats, key=get_args(Format).index)
    parity = Wanted("quantization", replace(model, format=precise), drafts.parity(study, model, precise, "model"))
    return [Wanted("quantization", None, study.prepare), *drafts.fine_tuning(study, model), parity]


def _with_latency(study: Study, stage: Stage, jobs: list[Wanted]) -> list[Wanted]:
    """The stage's jobs and, once all its converts are terminal, its one latency job over those that are done."""
    converts = [wanted for wanted in jobs if wanted.job.kind == "convert"]
    if any(study.states.get(wanted.job.id) not in TERMINAL for wanted in converts):
        # Without this the stage would look complete before the job exists.
        return jobs
    timed = [w for w in converts if study.states[w.job.id] == "done" and w.cell and _timed(study.spec, w.cell)]
    if timed:
        jobs.append(Wanted(stage, None, drafts.latency(study, stage, timed)))
    return jobs


def _timed(spec: StudySpec, cell: Cell) -> bool:
    """One seed of each base is timed; untrained only a base that is measured no other way."""
    if cell.n is not None:
        return cell.seed == seeds(spec)[0]
    return cell.adapter or not spec.base(cell.base).tuned
