"""The kinds of job: what determines each one's result, what it needs, what it delivers.

A job's id is the hash of (kind, kind version, params, the ids of the jobs it needs). Everything that is in `params`
is semantic; hardware and package versions are provenance on the attempt.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from jsm_queue.canonical import content_hash
from jsm_queue.spec import DecodingSpec, Format, JudgeSpec, Name, TrainingSpec

Sha = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]


class Params(BaseModel):
    """Base of every kind's parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRef(Params):
    """A file of the submitter, uploaded at submit. `suffix` (".yaml", ".jsonl", …) says how to read it."""

    sha: Sha
    suffix: Annotated[str, StringConstraints(pattern=r"^\.[a-z0-9]{1,8}$")]


PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Suffixes of weights that can run code when they are read: no base may have them alone."""


class BaseRef(Params):
    """A base model as content: the files of a local folder, one GGUF file, or a hub repository at a commit."""

    form: Literal["folder", "gguf", "hub"]
    files: dict[FileName, Sha] = Field(default_factory=dict)
    repo: str | None = None
    revision: str | None = None
    chat_template: str | None = Field(default=None, description="Jinja text that replaces the base's own")

    @property
    def key(self) -> str:
        """Names the base in caches and warm runners: 16 hexadecimal digits."""
        return content_hash(self.model_dump())[:16]


class PrepareParams(Params):
    """Corpus → dataset."""

    source: FileRef
    bench: FileRef | None
    seed: int
    validation: int
    test_taught: int
    test_unseen: int
    near_duplicate: float
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
    """Scores 0–3 of answers."""

    judge: JudgeSpec
    split: Literal["bench", "test"]


@dataclass(frozen=True)
class Kind:
    """What is fixed for a kind. `stall_s`: seconds without a progress tick after which the agent kills the runner."""

    version: int
    params: type[Params]
    outputs: tuple[str, ...] = ()  # artifact roles of a complete result
    gpu: bool = False  # prefers a GPU slot where the pool has one
    stall_s: int = 600


KINDS: dict[str, Kind] = {
    "prepare": Kind(2, PrepareParams, ("train", "validation", "test", "bench", "data_report")),
    "train": Kind(1, TrainParams, ("adapter_config", "adapter_model", "training_log"), gpu=True),
    "score": Kind(2, ScoreParams, (), gpu=True),
    "convert": Kind(1, ConvertParams, ("gguf",)),
    "parity": Kind(2, ParityParams, (), gpu=True),
    "answer": Kind(1, AnswerParams, ("answers",), gpu=True),
    "latency": Kind(2, LatencyParams, (), gpu=True),
    "judge": Kind(2, JudgeParams, ()),
}

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
    """What is known of a base and never part of a job's identity; None where its config does not say."""

    model_config = ConfigDict(extra="forbid")

    family: str | None = None
    parameters: int | None = None
    kv_heads: int | None = None
    heads: int | None = None
    bytes: int | None = None


class Inputs(BaseModel):
    """What a spec's local names resolved to at submit: content hashes and hub commits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: FileRef
    bench: FileRef | None = None
    bases: dict[Name, BaseRef]
    facts: dict[Name, BaseFacts] = Field(default_factory=dict)
