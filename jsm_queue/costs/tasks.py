"""What a job is made of, as far as its time and its memory follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from jsm_queue.kinds import BaseFacts
from jsm_queue.spec import StudySpec

UNKNOWN_PARAMETERS = 8e9  # a base of which nothing is known yet, and a judge
GGUF_BITS = {"F16": 16.0, "Q8_0": 8.5, "Q6_K": 6.6, "Q5_K_M": 5.7, "Q4_K_M": 4.8, "Q3_K_M": 3.9, "Q2_K": 3.2}
"""Bits a weight takes in each format, as llama.cpp's files of 7B and 8B models have them."""
BASE_BITS = 5  # a weight, in a GGUF base that does not say how many it has
BENCH_QUESTIONS = 72  # what the demo's bench has; a guess for others
PARITY_EXAMPLES = 20  # passes over so many tell whether two files are one model
STAGES = ("scale", "bases", "quantization")
NEXT = {"prepare": "train", "train": "convert", "convert": "answer", "answer": "judge"}
"""What waits for a job of that kind, on the longest way to its stage's verdict. In stage `scale` a `score` ends it."""
LATER = {"scale": "train", "bases": "convert"}
"""What waits first for that stage's verdict."""


@dataclass(frozen=True)
class StudyFacts:
    """What a study's jobs share. `bases`: name → parameters, 0 where nobody knows them; `n`: its largest training size;
    `stages`: those that it has, in their order.
    """

    validation: int
    test: int
    bench: bool
    epochs: int
    batch: int
    max_length: int
    quantized: bool
    new_tokens: int
    judge: str
    judges_at_once: int
    bases: Mapping[str, float]
    n: int = 0
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One job's work. `base`: its name; `parameters` of its model, `known` whether they are; `examples` that it goes
    over, those of a training once an epoch; `bits` a weight of its GGUF; `models`: parameters of those that `latency`
    times; `then`: what waits for it, on the longest way to its study's end, and so on.
    """

    kind: str
    base: str | None = None
    parameters: float = 0.0
    known: bool = False
    examples: int = 0
    batch: int = 1
    max_length: int = 0
    quantized: bool = False
    new_tokens: int = 0
    bits: float = 16.0
    judge: str = ""
    at_once: int = 1
    models: tuple[float, ...] = ()
    then: "Task | None" = None

    @cached_property
    def _key(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__dataclass_fields__))

    def __hash__(self) -> int:  # thousands are looked up at once: each is hashed only the first time
        return self._key


def study_facts(spec: StudySpec, facts: Mapping[str, BaseFacts]) -> StudyFacts:
    """What a spec and its bases' facts say of every job's work."""
    return StudyFacts(
        validation=spec.data.validation,
        test=spec.data.test_taught + spec.data.test_unseen,
        bench=bool(spec.data.bench),
        epochs=spec.training.epochs,
        batch=spec.training.batch,
        max_length=spec.training.max_length,
        quantized=spec.training.quantized,
        new_tokens=spec.decoding.max_new_tokens,
        judge=spec.judge.kind,
        judges_at_once=spec.judge.concurrency,
        bases={base.name: parameters(facts.get(base.name)) for base in spec.bases},
        n=_largest_size(spec),
        stages=tuple(name for name in STAGES if getattr(spec.stages, name)),
    )


def _largest_size(spec: StudySpec) -> int:
    stages = spec.stages
    sizes = stages.scale.sizes if stages.scale else []
    return max([*sizes, *(stage.n or 0 for stage in (stages.bases, stages.quantization) if stage)], default=0)


def task(
    kind: str,
    params: Mapping[str, Any],
    study: StudyFacts,
    stage: str,
    base: str | None,
    n: int | None,
    fmt: str | None,
) -> Task:
    """A job's work. `params`: the job's own; the rest is from the study's listing of it."""
    return _task(kind, params.get("split", ""), params.get("cells"), params, study, stage, base, n, fmt)


def _task(
    kind: str,
    split: str,
    cells: list[str] | None,
    params: Mapping[str, Any],
    study: StudyFacts,
    stage: str,
    base: str | None,
    n: int | None,
    fmt: str | None,
) -> Task:
    known = study.bases.get(base or "", 0.0)
    names = [label.partition(" ")[0] for label in cells or ()]
    examples = {
        "train": study.epochs * (n or 0),
        "parity": PARITY_EXAMPLES,
        "latency": params.get("questions", 0) * params.get("repeats", 0),
    }.get(kind, _examples(split, study))
    found = Task(
        kind=kind,
        base=base,
        parameters=(known or UNKNOWN_PARAMETERS) if base else 0.0,
        known=known > 0,
        examples=examples if kind not in ("prepare", "convert") else 0,
        batch=study.batch,
        max_length=study.max_length,
        quantized=study.quantized,
        new_tokens=study.new_tokens,
        bits=GGUF_BITS.get(params.get("format") or fmt or "", 8.5),
        judge=study.judge if kind == "judge" else "",
        at_once=study.judges_at_once if kind == "judge" else 1,
        models=tuple(study.bases.get(name, 0.0) or UNKNOWN_PARAMETERS for name in names),
        then=_then(kind, study, stage, base, n, fmt),
    )
    return _one_of_each(found)


@lru_cache(maxsize=1 << 16)
def _one_of_each(work: Task) -> Task:
    """Equal tasks are one object: thousands are compared at once."""
    return work


def _then(kind: str, study: StudyFacts, stage: str, base: str | None, n: int | None, fmt: str | None) -> Task | None:
    """On the longest way to the end of its stage, and from there on through the next ones."""
    if kind == "prepare":  # all waits for it
        stage, base, n = study.stages[0] if study.stages else stage, _largest(study), study.n
    following = "score" if stage == "scale" and kind == "train" else NEXT.get(kind)
    if following is None:
        return _later(study, stage)
    split = "validation" if stage == "scale" else "bench"
    return _task(following, split, None, {}, study, stage, base, n, fmt)


def _later(study: StudyFacts, stage: str) -> Task | None:
    """What waits for a stage's verdict: of the largest base, which takes longest."""
    if stage not in study.stages[:-1]:
        return None
    following = study.stages[study.stages.index(stage) + 1]
    return _task(LATER[stage], "bench", None, {}, study, following, _largest(study), study.n, None)


def _largest(study: StudyFacts) -> str | None:
    return max(study.bases, key=lambda name: study.bases[name] or UNKNOWN_PARAMETERS, default=None)


def _examples(split: str, study: StudyFacts) -> int:
    if split == "validation":
        return study.validation
    return BENCH_QUESTIONS if split == "bench" and study.bench else study.test


def parameters(facts: BaseFacts | None) -> float:
    """How many weights a base has, 0.0 where nobody knows."""
    if facts is None:
        return 0.0
    return float(facts.parameters or 0) or (facts.bytes or 0) * 8 / BASE_BITS
