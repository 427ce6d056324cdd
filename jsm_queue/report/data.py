"""The report as data: what `report.json` holds and the HTML shows. Figures only; no file, store or clock."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

REPORT_VERSION = 1

Stratum = Literal["validation", "taught", "unseen", ""]
Status = Literal["decided", "undecided", "failed"]


class Part(BaseModel):
    """Base of every part of the report."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(Part):
    """A mean over `items` examples with its 95 % interval."""

    estimate: float
    low: float
    high: float
    items: int


class Gap(Part):
    """A paired difference over `items` examples with its 95 % interval; `changed` of them differ at all.

    `least`, `most`: of scores that were compared for equivalence, the limits that allow for what was not seen.
    """

    difference: float
    low: float
    high: float
    items: int
    sd: float = 0.0
    changed: int = 0
    least: float | None = None
    most: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


class Seconds(Part):
    """Timings of one cell over `count` answers, on one machine; times in seconds."""

    p50: float
    p95: float
    first_token_p50: float | None = None
    tokens_per_second: float | None = None
    count: int


class StudyFacts(Part):
    """What was run, when and on what. Times as text, UTC. `busy_seconds`: summed over accepted attempts."""

    id: str
    name: str
    state: str
    created_at: str | None = None
    ended_at: str | None = None
    jobs: dict[str, int] = {}
    busy_seconds: float | None = None
    hardware: list[str] = []
    versions: dict[str, str] = {}
    training: dict[str, Any] = {}
    judge: str = "key_facts"


class DataSummary(Part):
    """How many examples; None where it is not known. `test`: in all its strata."""

    train: int | None = None
    validation: int | None = None
    test: int | None = None
    test_taught: int | None = None
    test_unseen: int | None = None
    bench: int | None = None
    dropped: int | None = None


class Finding(Part):
    """Something that `prepare` found `count` times in the data, with the first few places."""

    what: str
    count: int
    examples: list[str]


class DataReport(Part):
    """What `prepare` did with the data: left out (`dropped`), or kept and listed for a person to look at (`odd`)."""

    dropped: list[Finding] = []
    odd: list[Finding] = []
    ignored_columns: list[str] = []


class SizeRow(Part):
    """One training size of stage `scale` on one stratum; `n` None: untrained. NLL in nats a token.

    `key_nll`: over the tokens of the key facts only. `score`: the judge's, on the same questions.
    """

    n: int | None
    stratum: Stratum
    seeds: int
    nll: Figure | None = None
    key_nll: Figure | None = None
    score: Figure | None = None


class Learning(Part):
    """What fine-tuning on `n` examples changed against the untrained base; an NLL gets better by falling."""

    n: int
    stratum: Stratum
    measure: Literal["nll", "key_nll", "score"]
    gap: Gap

    @property
    def shown_better(self) -> bool:
        """Whether the interval excludes 0 on the better side."""
        return self.gap.low > 0 if self.measure == "score" else self.gap.high < 0


class BaseRow(Part):
    """One base in stage `bases`, in the order of its rank; an untrained reference has no `score`.

    `adapter`: it was measured with one that was given.
    """

    base: str
    family: str | None = None
    parameters: int | None = None
    n: int | None = None
    adapter: bool = False
    seeds: dict[str, float] = {}
    score: Figure | None = None
    untrained: Figure | None = None
    gain: Gap | None = None
    bits_per_byte: float | None = None
    bits_per_byte_untrained: float | None = None
    bytes: float | None = None
    parity_ok: bool | None = None
    seconds: Seconds | None = None
    chosen: bool = False


class PairRow(Part):
    """How base `a`, ranked higher, relates to `b`."""

    a: str
    b: str
    relation: Literal["better", "equivalent", "undecided"]
    gap: Gap | None = None
    needs: int | None = None


class FormatRow(Part):
    """One base in one format, in stage `quantization`."""

    base: str
    format: str
    relation: Literal["reference", "equivalent", "worse", "undecided"]
    score: Figure
    gap: Gap | None = None
    needs: int | None = None
    bytes: float | None = None
    kl: float | None = Field(None, description="to F16, nats a token")
    agree: float | None = Field(None, description="share of positions with F16's most likely token")
    prompts: int | None = Field(None, description="questions with their answers, by cell, that both rest on")
    seconds: Seconds | None = None
    recommended: bool = False


class StageVerdict(Part):
    """A stage's verdict as written in the store, with its one line."""

    stage: Literal["scale", "bases", "quantization"]
    status: Status
    headline: str
    decision: dict[str, Any]
    evidence: dict[str, Any]
    rules_version: int


class Excluded(Part):
    """What the limits ruled out."""

    base: str
    format: str
    why: str


class Recommendation(Part):
    """What to deploy; `status` "none": nothing. Timings act only here.

    Of a study of stage `scale` alone what to train: `base` and `n` without a `format`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    status: Literal["decided", "undecided", "none"]
    sentence: str
    rests_on: list[str]
    caveats: list[str]
    excluded: list[Excluded] = []
    base: str | None = None
    n: int | None = None
    adapter: bool = False
    format: str | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    items: int | None = None
    bytes: float | None = None
    seconds_p50: float | None = None
    seconds_p95: float | None = None


class Answer(Part):
    """One cell's answer to an example question, given by its GGUF in `format`."""

    cell: str
    format: str
    text: str
    score: float | None = None
    found: list[str] = []
    missing: list[str] = []
    cut: bool = False


class ExampleQuestion(Part):
    """A question with its reference and several cells' answers, side by side."""

    question: str
    reference: str
    stratum: str = ""
    category: str = ""
    answers: list[Answer]


class TimingRow(Part):
    """One timed cell. Timings stand apart from verdicts: they depend on the machine."""

    stage: str
    cell: str
    hardware: str
    seconds: Seconds


class ReportData(Part):
    """The whole report."""

    version: int = REPORT_VERSION
    study: StudyFacts
    data: DataSummary = DataSummary()
    data_report: DataReport | None = None
    recommendation: Recommendation
    verdicts: list[StageVerdict] = []
    sizes: list[SizeRow] = []
    learning: list[Learning] = []
    bases: list[BaseRow] = []
    pairs: list[PairRow] = []
    formats: list[FormatRow] = []
    examples: list[ExampleQuestion] = []
    timings: list[TimingRow] = []
    parity_warnings: list[str] = []
    missing: list[str] = []
    not_claimed: list[str] = []

    def verdict(self, stage: str) -> StageVerdict | None:
        """A stage's verdict, None while there is none."""
        return next((verdict for verdict in self.verdicts if verdict.stage == stage), None)
