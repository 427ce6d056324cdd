"""The study's YAML file: its words, its defaults, and the contradictions that are refused."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from jsm_queue.errors import SpecError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Format = Literal["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"]
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=20)]


class Part(BaseModel):
    """Base of every part of a spec: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSpec(Part):
    """Where the corpus is and how it becomes a dataset."""

    source: str = Field(description="knowledge graph (.yaml) or question–answer pairs (.jsonl, .csv)")
    bench: str | None = Field(
        default=None,
        description="bench questions with key facts (.yaml, .jsonl, .csv); without it the test questions serve",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="decides the split and which facts are never taught")
    validation: int = Field(default=60, ge=10, description="validation examples")
    test_taught: int = Field(
        default=60, ge=1, description="of a graph: test examples on taught facts in unseen wording; of pairs: unused"
    )
    test_unseen: int = Field(
        default=60,
        ge=1,
        description="of a graph: test examples that share no fact with the training data; of pairs: all test examples, "
        "whose facts may be taught elsewhere",
    )
    near_duplicate: float = Field(
        default=0.8, gt=0, le=1, description="character-bigram Jaccard from which a pair is a duplicate"
    )
    max_answer_chars: int = Field(default=1000, ge=1, description="longer answers are listed in the data report")


class BaseSpec(Part):
    """One base model."""

    name: Name
    source: str = Field(description="hub id (org/name), local folder, or .gguf file")
    revision: str | None = Field(default=None, description="hub branch, tag or commit; resolved to a commit at submit")
    chat_template: str | None = Field(
        default=None, description="a Jinja file or a built-in template, for bases without one"
    )
    train: bool = Field(default=True, description="false: an untrained reference")


class TrainingSpec(Part):
    """Settings of every fine-tuning in the study; compared cells share them."""

    r: int = Field(default=16, ge=1, le=512, description="LoRA rank")
    alpha: float = Field(default=32, gt=0, description="LoRA alpha")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="LoRA dropout")
    targets: Literal["all-linear"] | list[str] = Field(default="all-linear", description="modules that get an adapter")
    lr: float = Field(default=2e-4, gt=0, description="peak learning rate")
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the steps")
    epochs: int = Field(default=3, ge=1, le=1000)
    batch: int = Field(default=16, ge=1, description="examples a step")
    max_length: int = Field(default=1024, ge=16, description="tokens; longer examples are dropped and counted")
    quantized: bool = Field(default=True, description="NF4 base (QLoRA); false: the base in its own precision")


class DecodingSpec(Part):
    """Greedy decoding, one setting for a whole stage."""

    max_new_tokens: int = Field(default=256, ge=1)
    context: int = Field(default=2048, ge=64, description="tokens")


class JudgeSpec(Part):
    """Who scores the answers 0–3."""

    kind: Literal["key_facts"] = "key_facts"


class ScaleStage(Part):
    """Stage 1: how much data. One base × sizes × seeds."""

    base: Name
    sizes: Annotated[list[int], Field(min_length=2, max_length=50)]
    seeds: Seeds = [1, 2, 3]
    read_test: Literal["chosen", "all"] = Field(
        default="chosen",
        description="cells that are measured on the test set too, after the verdict: n* and the untrained base, or all",
    )

    @field_validator("sizes")
    @classmethod
    def _ascending(cls, sizes: list[int]) -> list[int]:
        if sizes != sorted(set(sizes)) or sizes[0] < 1:
            raise ValueError("sizes must be positive and ascending, each once")
        return sizes


class BasesStage(Part):
    """Stage 2: which base. Bases × seeds at n*."""

    n: int | None = Field(default=None, ge=1, description="training examples, instead of stage 1's n*")
    seeds: Seeds = [1, 2]
    answer_format: Format = "Q8_0"


class QuantizationStage(Part):
    """Stage 3: which format. Chosen bases × formats."""

    keep: int = Field(default=1, ge=1, description="how many of stage 2's best bases are quantized")
    formats: Annotated[list[Format], Field(min_length=1)] = ["F16", "Q8_0", "Q5_K_M", "Q4_K_M"]

    @field_validator("formats")
    @classmethod
    def _once(cls, formats: list[str]) -> list[str]:
        if len(set(formats)) != len(formats):
            raise ValueError("each format once")
        return formats


class Stages(Part):
    """The stages in their order. `scale` may be left out when `bases.n` is given."""

    scale: ScaleStage | None = None
    bases: BasesStage = BasesStage()
    quantization: QuantizationStage | None = QuantizationStage()


class Limits(Part):
    """What the recommendation must fit. None: no limit."""

    vram_gib: float | None = Field(default=None, gt=0, description="GPU memory of the machine to deploy on")
    seconds_per_question: float | None = Field(default=None, gt=0, description="p95")
    file_gb: float | None = Field(default=None, gt=0, description="10^9 bytes")


class StudySpec(Part):
    """One study, as its author writes it."""

    name: Name
    data: DataSpec
    system_prompt: str | None = None
    bases: Annotated[list[BaseSpec], Field(min_length=1, max_length=50)]
    training: TrainingSpec = TrainingSpec()
    decoding: DecodingSpec = DecodingSpec()
    judge: JudgeSpec = JudgeSpec()
    stages: Stages = Stages()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [base.name for base in self.bases]
        if len(set(names)) != len(names):
            raise ValueError("bases: each name once")
        if not any(base.train for base in self.bases):
            raise ValueError("bases: at least one must have train: true")
        scale = self.stages.scale
        if scale is None and self.stages.bases.n is None:
            raise ValueError("stages: without `scale`, `bases.n` must say how many training examples to use")
        if scale is not None and self.stages.bases.n is not None:
            raise ValueError("stages: `bases.n` contradicts `scale`, whose verdict is n*; leave one out")
        if scale is not None and scale.base not in {base.name for base in self.bases if base.train}:
            raise ValueError(f"stages.scale.base: {scale.base!r} is not one of the bases with train: true")
        return self

    def base(self, name: str) -> BaseSpec:
        """The base of that name. Raises KeyError."""
        return {base.name: base for base in self.bases}[name]


def parse_spec(value: Any, where: str = "spec") -> StudySpec:
    """A StudySpec from parsed YAML or JSON. Raises SpecError that names every wrong key."""
    if not isinstance(value, dict):
        raise SpecError(f"{where}: expected a mapping of keys, found {type(value).__name__}", "See examples/")
    try:
        return StudySpec.model_validate(value)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or 'spec'}: {item['msg']}" for item in error.errors()]
        raise SpecError(f"{where}: " + "; ".join(lines), "`jsm init` writes a commented example") from error


def read_spec(path: Path) -> StudySpec:
    """The spec in a YAML file. Raises SpecError that names the file and, where known, the line."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror})", "Give the path of a study's YAML file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also no UTF-8, and no such date
        raise SpecError(f"{path}: not valid YAML in UTF-8 ({error})", "Correct the file at that place") from error
    return parse_spec(value, str(path))
