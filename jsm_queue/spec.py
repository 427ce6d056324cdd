"""The study's YAML file: its words, its defaults, and the contradictions that are refused."""

import re
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from yaml import Node

from jsm_queue import specwords, specyaml
from jsm_queue.errors import SpecError
from jsm_queue.specparts import Format, Name, Part, Seeds, Whole


class DataSpec(Part):
    """Where the corpus is and how it becomes a dataset."""

    source: str = Field(
        min_length=1,
        description="knowledge graph (.yaml), or pairs or conversations (.jsonl, .json, .csv, .parquet); "
        "a file beside the spec, or hub:ORG/NAME[@REVISION][/FILE]",
    )
    bench: str | None = Field(
        default=None,
        min_length=1,
        description="bench questions (.yaml, or as `source`), with key facts where they judge; without it the test "
        "questions serve",
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
    near_duplicate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="character-bigram Jaccard to a held-out question from which a training example is dropped; left "
        "out: 0.6 of a graph, 0.8 of pairs (docs/data.md)",
    )
    max_answer_chars: int = Field(default=1000, ge=1, description="longer answers are listed in the data report")


class BaseSpec(Part):
    """One base model."""

    name: Name
    source: str = Field(min_length=1, description="hub id (org/name), local folder, or .gguf file")
    revision: str | None = Field(
        default=None, min_length=1, description="hub branch, tag or commit; resolved to a commit at submit"
    )
    chat_template: str | None = Field(
        default=None, min_length=1, description="a Jinja file or a built-in template, for bases without one"
    )
    adapter: str | None = Field(
        default=None,
        min_length=1,
        description="a PEFT LoRA folder: the base is measured with it; goes with train: false",
    )
    train: bool = Field(default=True, description="false: an untrained reference, or measured with its `adapter`")

    @property
    def tuned(self) -> bool:
        """Is it measured fine-tuned: trained by the study, or with the adapter that is given?"""
        return self.train or self.adapter is not None

    @model_validator(mode="after")
    def _one_adapter(self) -> Self:
        if self.adapter is not None and self.train:
            raise ValueError("an adapter that is given is measured as it is: `adapter` goes with `train: false`")
        return self


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

    @field_validator("targets")
    @classmethod
    def _any(cls, targets: str | list[str]) -> str | list[str]:
        if not targets:
            raise ValueError("an empty list leaves nothing to train; name linear layers, or write all-linear")
        return targets


class DecodingSpec(Part):
    """Greedy decoding, one setting for a whole stage."""

    max_new_tokens: int = Field(default=256, ge=1)
    context: int = Field(
        default=2048, ge=64, le=2**20, description="tokens of question and answer; no more than the bases have"
    )

    @model_validator(mode="after")
    def _room_for_a_question(self) -> Self:
        if self.max_new_tokens >= self.context:
            raise ValueError(
                f"`max_new_tokens` ({self.max_new_tokens}) must be below `context` ({self.context}), which holds the "
                "question too"
            )
        return self


class JudgeSettings(Part):
    """Of a judge, what is said in the spec itself; its model's file and its rubric's text are content."""

    kind: Literal["key_facts", "gguf", "openai"] = Field(
        default="key_facts",
        description="by the key facts found, a GGUF in the worker's process, or a server that speaks OpenAI's protocol",
    )
    url: str | None = Field(
        default=None, description="of `openai`: the server's address up to `/chat/completions`, e.g. http://pc:8000/v1"
    )
    model: str | None = Field(
        default=None, min_length=1, max_length=200, description="of `openai`: the model's name there"
    )
    key_env: str | None = Field(
        default=None,
        description="of `openai`: the variable of the worker's environment that holds the key, JSM_JUDGE_…",
    )
    concurrency: int = Field(default=1, ge=1, le=4, description="of `openai`: questions that are judged at a time")

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str | None) -> str | None:
        return None if url is None else judge_url(url)

    @field_validator("key_env")
    @classmethod
    def _name_of_a_variable(cls, name: str | None) -> str | None:
        """A worker gives away no other variable, whoever writes specs; and a key that stands here is not repeated."""
        if name is not None and not re.fullmatch(r"JSM_JUDGE_[A-Z0-9_]{1,50}", name):
            raise ValueError("the name of a variable that begins with JSM_JUDGE_ is meant, never the key itself")
        return name


class JudgeSpec(JudgeSettings):
    """Who scores the answers 0–3. docs/judges.md compares the kinds."""

    source: str | None = Field(
        default=None,
        description="of `gguf`: a .gguf file, package:NAME/FILE.gguf, or hub:ORG/NAME/FILE.gguf (@REVISION may follow)",
    )
    rubric: str = Field(
        default="ja", min_length=1, description="of `gguf` and `openai`: `ja`, `en`, or a text file of your own"
    )

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        needed, allowed = JUDGE_KEYS[self.kind]
        fields = JudgeSpec.model_fields
        # By value: a stored spec gives every key.
        given = [name for name in fields if name != "kind" and getattr(self, name) != fields[name].default]
        if alien := [name for name in given if name not in needed + allowed]:
            raise ValueError(f"`{'`, `'.join(alien)}` means nothing to a judge of kind {self.kind}; leave it out")
        if absent := [name for name in needed if getattr(self, name) is None]:
            raise ValueError(f"a judge of kind {self.kind} needs `{'` and `'.join(absent)}`")
        if self.key_env and self.url and self.url.startswith("http://") and urlsplit(self.url).hostname not in LOOPBACK:
            raise ValueError("`key_env`: over http:// everyone on the way reads the key; use https://")
        return self


JUDGE_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "key_facts": ((), ()),
    "gguf": (("source",), ("rubric",)),
    "openai": (("url", "model"), ("rubric", "key_env", "concurrency")),
}
"""The keys that a judge of that kind needs, and those that it may have."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def judge_url(url: str) -> str:
    """The address without a slash at its end. Raises ValueError, which repeats nothing of what may be a secret."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        sound, parts = False, urlsplit("")
    if not sound or any(sign.isspace() or not sign.isprintable() for sign in url):
        raise ValueError("expected an address such as http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("no user, password, query or fragment may be in it: it is stored and shown; see `key_env`")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError("leave out /chat/completions, which is added")
    return url.rstrip("/")


class ScaleStage(Part):
    """Stage 1: how much data. One base × sizes × seeds."""

    base: Name
    sizes: Annotated[list[Whole], Field(min_length=2, max_length=50)]
    seeds: Seeds = [1, 2, 3]  # noqa: RUF012
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
    """Stage 2: which base. Those with train: true × seeds at n*, those with an adapter as they are."""

    n: int | None = Field(default=None, ge=1, description="training examples, instead of stage 1's n*")
    seeds: Seeds = [1, 2]  # noqa: RUF012
    answer_format: Format = "Q8_0"


class QuantizationStage(Part):
    """Stage 3: which format. The bases that stage 2 chose, or those that are named here, × formats."""

    keep: int = Field(default=1, ge=1, description="how many of stage 2's best bases are quantized")
    bases: Annotated[list[Name], Field(min_length=1)] | None = Field(
        default=None, description="which bases, where stage 2 is left out; without it stage 1's"
    )
    n: int | None = Field(default=None, ge=1, description="training examples, where stages 1 and 2 are left out")
    seeds: Seeds | None = Field(
        default=None, description="where stage 2 is left out; without them stage 1's, and without that 1 and 2"
    )
    formats: Annotated[list[Format], Field(min_length=1)] = ["F16", "Q8_0", "Q5_K_M", "Q4_K_M"]  # noqa: RUF012

    @field_validator("formats", "bases")
    @classmethod
    def _once(cls, values: list[str] | None) -> list[str] | None:
        if values and len(set(values)) != len(values):
            raise ValueError("each once")
        return values


class Stages(Part):
    """The stages in their order. One that is not written, or null, is left out; at least one remains."""

    scale: ScaleStage | None = None
    bases: BasesStage | None = None
    quantization: QuantizationStage | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        scale, bases, quantization = self.scale, self.bases, self.quantization
        if not (scale or bases or quantization):
            raise ValueError("write at least one of `scale`, `bases` and `quantization`")
        if scale and bases and bases.n:
            raise ValueError("`bases.n` contradicts `scale`, whose verdict is n*; leave one out")
        if quantization:
            _check_quantization(scale, bases, quantization)
        return self


def _check_quantization(scale: ScaleStage | None, bases: BasesStage | None, stage: QuantizationStage) -> None:
    """Raises ValueError where stage 3 says again what an earlier stage decides, or nobody says it."""
    if bases:
        for key, theirs in (("bases", "verdict chooses them"), ("n", "n is theirs"), ("seeds", "seeds are these")):
            if getattr(stage, key) is not None:
                raise ValueError(f"`quantization.{key}` contradicts stage `bases`, whose {theirs}; leave one out")
        return
    if stage.keep > 1:
        raise ValueError(
            "`quantization.keep` chooses among stage `bases`, which is left out; name `quantization.bases`"
        )
    if scale and stage.n:
        raise ValueError("`quantization.n` contradicts `scale`, whose verdict is n*; leave one out")
    if not scale and not stage.bases:
        raise ValueError("without `scale` and `bases`, `quantization.bases` must name the bases to quantize")


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
    stages: Stages
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [base.name for base in self.bases]
        if len(set(names)) != len(names):
            raise ValueError("bases: each name once")
        scale, bases, quantization = self.stages.scale, self.stages.bases, self.stages.quantization
        if scale and scale.base not in {base.name for base in self.bases if base.train}:
            raise ValueError(f"stages.scale.base: {scale.base!r} is not one of the bases with train: true")
        if bases:
            self._check_bases(bases, quantization)
        elif quantization:
            self._check_named(quantization)
        return self

    def _check_bases(self, stage: BasesStage, quantization: QuantizationStage | None) -> None:
        """Raises ValueError where stage 2 has nothing to rank, too little to choose from, or no n."""
        tuned = [base.name for base in self.bases if base.tuned]
        if not tuned:
            raise ValueError("bases: stage `bases` ranks those with train: true or an adapter, and there is none")
        if quantization and quantization.keep > len(tuned):
            raise ValueError(
                f"stages.quantization.keep: {quantization.keep} of the bases with train: true or an adapter, "
                f"but there are only {len(tuned)}"
            )
        self._check_n("bases", stage.n, self.bases)

    def _check_named(self, stage: QuantizationStage) -> None:
        """Raises ValueError where stage 3 names bases that are not there, or trains them without n."""
        unknown = {*(stage.bases or ())} - {base.name for base in self.bases}
        if unknown:
            raise ValueError(f"stages.quantization.bases: {min(unknown)!r} is not one of the bases")
        named = [self.base(name) for name in stage.bases or ()]
        self._check_n("quantization", stage.n, named)
        if stage.seeds and named and not any(base.train for base in named):
            raise ValueError("stages.quantization.seeds: none of its bases is trained")

    def _check_n(self, stage: str, n: int | None, bases: list[BaseSpec]) -> None:
        trained = [base.name for base in bases if base.train]
        if self.stages.scale:
            return
        if trained and n is None:
            raise ValueError(
                f"stages: without `scale`, `{stage}.n` must say how many training examples {trained[0]!r} gets"
            )
        if n is not None and not trained:
            raise ValueError(f"stages.{stage}.n: none of its bases has train: true")

    def base(self, name: str) -> BaseSpec:
        """The base of that name. Raises KeyError."""
        return {base.name: base for base in self.bases}[name]


def parse_spec(value: Any, where: str = "spec", root: Node | None = None) -> StudySpec:
    """A StudySpec from parsed YAML or JSON. Raises SpecError that names every wrong key.

    `root`: the YAML file's node, which knows the lines.
    """
    if not isinstance(value, dict):
        found = "an empty file" if value is None else specwords.shown(value)
        raise SpecError(f"{where}: found {found}, expected a study's keys", "`jsm init` writes a commented example")
    if unkeepable := specwords.unkeepable(value):
        raise _error([unkeepable], where, root)
    try:
        return StudySpec.model_validate(value)
    except ValidationError as error:
        raise _error(specwords.problems(error, StudySpec, value), where, root) from error


def read_spec(path: Path) -> StudySpec:
    """The spec in a YAML file. Raises SpecError that names the file and the line of every wrong key."""
    file = specyaml.read(path)
    return parse_spec(file.value, str(path), file.root)


def _error(found: list[specwords.Problem], where: str, root: Node | None) -> SpecError:
    """`study.yaml:12: training.epochs: 0 is too small: at least 1`, for each; without a file no lines."""
    if root is None:
        return SpecError(f"{where}: {specwords.joined([problem.said for problem in found])}")
    lines = sorted(((specyaml.line_of(root, problem.loc), problem.said) for problem in found), key=itemgetter(0))
    return SpecError(specwords.joined([f"{where}:{line}: {said}" for line, said in lines]))
