"""The kinds of job: what determines each one's result, what it needs, what it delivers.

A job's id is the hash of (kind, kind version, params, the ids of the jobs it needs). Everything that is in `params`
is semantic; hardware and package versions are provenance on the attempt.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from jsm_queue.canonical import content_hash
from jsm_queue.spec import DecodingSpec, Format, JudgeSettings, Name, TrainingSpec

Sha = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]


class Params(BaseModel):
    """Base of every kind's parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRef(Params):
    """A file of the submitter, uploaded at submit. `suffix` (".yaml", ".jsonl", …) says how to read it."""

    sha: Sha
    suffix: Annotated[str, StringConstraints(pattern=r"^\.[a-z0-9]{1,8}$")]


RUBRIC_CHARS = 10_000
"""A longer rubric leaves a small judge no room for the answer."""

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Suffixes of weights that can run code when they are read: no base may have them alone."""


class BaseRef(Params):
    """A base model as content: the files of a local folder, one GGUF file, or a hub repository at a commit.

    With `adapter`, the files of a PEFT folder, it is measured with that adapter on it.
    """

    form: Literal["folder", "gguf", "hub"]
    files: dict[FileName, Sha] = Field(default_factory=dict)
    repo: str | None = None
    revision: str | None = None
    chat_template: str | None = Field(default=None, description="Jinja text that replaces the base's own")
    # Left out where it is empty: jobs without one keep the ids that they had before adapters could be given.
    adapter: dict[FileName, Sha] = Field(default_factory=dict, exclude_if=lambda files: not files)

    @property
    def key(self) -> str:
        """Names the base, whatever adapter is on it, in caches and warm runners: 16 hexadecimal digits."""
        return content_hash(self.model_dump(exclude={"adapter"}))[:16]

    @property
    def bare(self) -> "BaseRef":
        """The same base without its adapter."""
        return self.model_copy(update={"adapter": {}})


class PrepareParams(Params):
    """Corpus → dataset."""

    source: FileRef
    bench: FileRef | None
    seed: int
    validation: int
    test_taught: int
    test_unseen: int
    near_duplicate: float | None
    max_answer_chars: int


class TrainParams(Params):
    """Dataset × base → adapter (a PEFT folder)."""

    base: BaseRef
    n: int
    seed: int
    training: TrainingSpec
    system_prompt: str | None


class ScoreParams(Params):
    """NLL of each reference answer of a split, under the base with or without an adapter."""

    base: BaseRef
    split: Literal["validation", "test"]
    quantized: bool
    max_length: int
    system_prompt: str | None


class ConvertParams(Params):
    """Base with or without an adapter → one GGUF file."""

    base: BaseRef
    format: Format


class ParityParams(Params):
    """Is this GGUF the model that was trained? Against the torch model, or against the F16 GGUF."""

    base: BaseRef
    reference: Literal["model", "F16"]
    prompts: int
    system_prompt: str | None


class AnswerParams(Params):
    """Answers of a GGUF to the bench or the test questions."""

    split: Literal["bench", "test"]
    decoding: DecodingSpec
    system_prompt: str | None


class LatencyParams(Params):
    """Timings of all GGUFs of a stage, interleaved on one machine of a hardware class. Never shared between studies."""

    study: str
    stage: str
    hardware: str
    cells: list[str] = Field(description="labels; cell i's GGUF is the need `gguf.i`")
    questions: int
    repeats: int
    decoding: DecodingSpec
    system_prompt: str | None


class JudgeParams(Params):
    """Scores 0–3 of answers. `rubric`: its text; `judge_file`: the judge's own GGUF; each None for a kind without one.

    `study`: of a judge behind a URL, which may be another one tomorrow: its scores are of this study alone.
    """

    judge: JudgeSettings
    split: Literal["bench", "test"]
    rubric: str | None = None
    judge_file: FileRef | None = None
    study: str | None = None


@dataclass(frozen=True)
class Kind:
    """What is fixed for a kind. `stall_s`: seconds without a progress tick after which the agent kills the runner."""

    version: int
    params: type[Params]
    outputs: tuple[str, ...] = ()  # artifact roles of a complete result
    gpu: bool = False  # prefers a GPU slot where the pool has one
    stall_s: int = 600


KINDS: dict[str, Kind] = {
    "prepare": Kind(3, PrepareParams, ("train", "validation", "test", "bench", "data_report")),
    "train": Kind(2, TrainParams, ("adapter_config", "adapter_model", "training_log"), gpu=True),
    "score": Kind(3, ScoreParams, (), gpu=True),
    "convert": Kind(1, ConvertParams, ("gguf",)),
    "parity": Kind(3, ParityParams, (), gpu=True),
    "answer": Kind(2, AnswerParams, ("answers",), gpu=True),
    "latency": Kind(3, LatencyParams, (), gpu=True),
    "judge": Kind(3, JudgeParams, (), stall_s=1800),  # a CPU reads a long answer with an 8B judge for minutes
}


def on_gpu(kind: str, params: Mapping[str, Any]) -> bool:
    """Whether a job goes to a GPU slot where its worker has one: by its kind, and a judge where it is a GGUF."""
    return KINDS[kind].gpu or params.get("judge_file") is not None


ROLE_FILES: dict[str, str] = {
    "train": "train.jsonl",
    "validation": "validation.jsonl",
    "test": "test.jsonl",
    "bench": "bench.jsonl",
    "data_report": "report.json",
    "adapter_config": "adapter_config.json",
    "adapter_model": "adapter_model.safetensors",
    "training_log": "training_log.json",
    "gguf": "model.gguf",
    "answers": "answers.jsonl",
}
"""The file name that a role has inside a job's input and output folders."""


@dataclass(frozen=True)
class JobDraft:
    """A job that the planner wants: its id follows from the rest. `needs` maps a need's name to a job id."""

    kind: str
    params: dict[str, Any]
    needs: dict[str, str] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return content_hash(
            {
                "kind": self.kind,
                "version": KINDS[self.kind].version,
                "params": self.params,
                "needs": self.needs,
            }
        )


def draft(kind: str, params: Params, needs: dict[str, str] | None = None) -> JobDraft:
    """A JobDraft from typed params. Raises TypeError when the params are another kind's."""
    if not isinstance(params, KINDS[kind].params):
        raise TypeError(f"{kind}: expected {KINDS[kind].params.__name__}, got {type(params).__name__}")
    return JobDraft(kind, params.model_dump(mode="json"), needs or {})


class BaseFacts(BaseModel):
    """What is known of a base and never part of a job's identity; None where its config does not say.

    `positions`: tokens of the longest text that it was made for.
    """

    model_config = ConfigDict(extra="forbid")

    family: str | None = None
    parameters: int | None = None
    kv_heads: int | None = None
    heads: int | None = None
    bytes: int | None = None
    positions: int | None = None


class JudgeInputs(Params):
    """What a spec's judge resolved to: its rubric's text and, of a GGUF, its file."""

    rubric: Annotated[str, StringConstraints(min_length=1, max_length=RUBRIC_CHARS)]
    file: FileRef | None = None


class Inputs(BaseModel):
    """What a spec's local names resolved to at submit: content hashes and hub commits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: FileRef
    bench: FileRef | None = None
    judge: JudgeInputs | None = None
    bases: dict[Name, BaseRef]
    facts: dict[Name, BaseFacts] = Field(default_factory=dict)
