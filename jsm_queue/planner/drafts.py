"""The jobs of a cell: each with the parameters and needs that its id is made of."""

from collections.abc import Sequence
from typing import Any, Literal

from jsm_queue.kinds import (
    AnswerParams,
    BaseRef,
    ConvertParams,
    JobDraft,
    JudgeParams,
    LatencyParams,
    ParityParams,
    ScoreParams,
    TrainParams,
    draft,
)
from jsm_queue.planner.study import Cell, Stage, Study, Wanted

LATENCY_QUESTIONS = 8  # bench questions that are timed
LATENCY_REPEATS = 3  # times each
PARITY_PROMPTS = 4


def fine_tuning(study: Study, cell: Cell) -> list[Wanted]:
    """The training that a cell's model needs, if it needs one."""
    return [] if cell.n is None else [Wanted(cell.stage, cell, train(study, cell))]


def train(study: Study, cell: Cell) -> JobDraft:
    """A cell's training: of two cells that differ in their stage alone it is the same job."""
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


def score(study: Study, cell: Cell, split: Literal["validation", "test"]) -> JobDraft:
    """The NLL of a cell's model on a split."""
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


def judged(study: Study, cell: Cell, fmt: str, split: Literal["bench", "test"]) -> list[Wanted]:
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


def parity(study: Study, cell: Cell, fmt: str, reference: Literal["model", "F16"]) -> JobDraft:
    """Whether a cell's GGUF is the model that it was made of, or how far it is from F16."""
    needs = {"dataset": study.prepare.id, "gguf": _convert(study, cell, fmt).id}
    needs |= _adapter(study, cell) if reference == "model" else {"f16": _convert(study, cell, "F16").id}
    params = ParityParams(
        base=_base(study, cell),
        reference=reference,
        prompts=PARITY_PROMPTS,
        system_prompt=study.spec.system_prompt,
    )
    return draft("parity", params, needs)


def latency(study: Study, stage: Stage, converts: Sequence[Wanted]) -> JobDraft:
    """The seconds of all of a stage's GGUFs, measured together."""
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
    return {} if cell.n is None else {"adapter": train(study, cell).id}


def _base(study: Study, cell: Cell) -> BaseRef:
    base = study.inputs.bases[cell.base]
    return base if cell.adapter else base.bare
