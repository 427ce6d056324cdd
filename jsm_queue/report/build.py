"""From what a study measured to the report's data. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from jsm_queue import recommendation, stats, wording
from jsm_queue.comparison import CellValues, Difference, Level, by_seed, compare, grouped, level
from jsm_queue.kinds import BaseFacts
from jsm_queue.planner import Cell
from jsm_queue.report import data as d
from jsm_queue.spec import StudySpec
from jsm_queue.verdicts import RULES_VERSION, Verdict

Model = TypeVar("Model", d.Figure, d.Gap)

LOSSES = {
    "train.dropped": "Examples longer than training.max_length, left out of training",
    "score.dropped": "Examples longer than training.max_length, without an NLL",
    "answer.truncated": "Answers cut at decoding.max_new_tokens or at the context's end",
    "judge.unjudged": "Answers that the judge left without a score (unparsable, refused, truncated, or an error)",
    "convert.fallback_tensors": "Matrices that could not have the format's own type, and have a larger one",
}
"""What a job may lose without failing: the metric that counts it, and how a caveat names it."""

STAGES = ("scale", "bases", "quantization")

LISTED = 6
"""Cells that such a caveat names."""


class Timed(NamedTuple):
    """All timed answers of one cell: seconds, seconds to the first token, tokens a second; and what computed them."""

    seconds: list[float]
    first_token: list[float]
    rate: list[float]
    device: str = ""


class CellKey(NamedTuple):
    """A cell of a stage, by its label."""

    stage: str
    cell: str


@dataclass(frozen=True)
class Measured:
    """What the store knows of a study.

    `strata`: (measure, stratum) → the cells of stage `scale`, where measure is "nll", "key_nll" or "score"
    and stratum "validation", "taught", "unseen" or "". `metrics`: a cell's metrics as `<kind>.<name>`, and
    `bits_per_byte`. `losses`: metric of LOSSES → cell label → how many. `failed`: the kinds of job that ended
    without a result, by cell; of a stage as a whole the label is "".
    """

    spec: StudySpec
    study: d.StudyFacts
    data: d.DataSummary = field(default_factory=d.DataSummary)
    data_report: d.DataReport | None = None
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    rules_versions: Mapping[str, int] = field(default_factory=dict)
    strata: Mapping[tuple[str, str], Sequence[CellValues]] = field(default_factory=dict)
    metrics: Mapping[CellKey, Mapping[str, float]] = field(default_factory=dict)
    timings: Mapping[CellKey, Timed] = field(default_factory=dict)
    hardware: str = ""
    facts: Mapping[str, BaseFacts] = field(default_factory=dict)
    examples: Sequence[d.ExampleQuestion] = ()
    losses: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    failed: Mapping[CellKey, Sequence[str]] = field(default_factory=dict)


def build(measured: Measured) -> d.ReportData:
    """The report's data, the same for the same measurements."""
    advice = _recommendation(measured)
    return d.ReportData(
        study=measured.study,
        data=measured.data,
        data_report=measured.data_report,
        recommendation=advice,
        verdicts=_verdicts(measured.verdicts, measured.rules_versions),
        sizes=_sizes(measured.strata),
        learning=_learning(measured),
        bases=_bases(measured),
        pairs=_pairs(measured.verdicts.get("bases")),
        formats=_formats(measured, advice),
        examples=list(measured.examples),
        timings=[
            d.TimingRow(
                stage=key.stage,
                cell=key.cell,
                hardware=", ".join(filter(None, [measured.hardware, timed.device])),
                seconds=seconds(timed),
            )
            for key, timed in sorted(measured.timings.items())
        ],
        parity_warnings=_parity_warnings(measured),
        missing=_missing(measured),
        not_claimed=_not_claimed(measured),
    )


def _missing(measured: Measured) -> list[str]:
    """The cells with a job that has no result, and the stages of an ended study that never came to be."""
    lines = [
        f"{key.stage}: {wording.place(key.cell or 'the stage as a whole', kinds)}"
        for key, kinds in sorted(measured.failed.items())
    ]
    without = [stage for stage in STAGES if getattr(measured.spec.stages, stage) and stage not in measured.verdicts]
    if measured.study.state == "ended":
        lines += [f"{stage}: the whole stage, for the one before it has no result" for stage in without]
    return lines


def seconds(timed: Timed) -> d.Seconds:
    """A cell's timings in short."""
    p50, p95 = stats.quantiles(timed.seconds, [0.5, 0.95])
    return d.Seconds(
        p50=p50,
        p95=p95,
        first_token_p50=stats.quantiles(timed.first_token, [0.5])[0] if timed.first_token else None,
        tokens_per_second=stats.quantiles(timed.rate, [0.5])[0] if timed.rate else None,
        count=len(timed.seconds),
    )


def _recommendation(measured: Measured) -> d.Recommendation:
    last = measured.verdicts.get("quantization")
    stage = "quantization" if last and last.evidence["bases"] else "bases"
    timings = {key.cell: timed.seconds for key, timed in measured.timings.items() if key.stage == stage}
    sizes = {
        key.cell: values["convert.bytes"]
        for key, values in measured.metrics.items()
        if key.stage == stage and "convert.bytes" in values
    }
    failed = {(key.stage, key.cell): kinds for key, kinds in measured.failed.items()}
    found = recommendation.recommend(measured.spec, measured.verdicts, timings, sizes, failed)
    found["caveats"] += _loss_caveats(measured.losses)
    if not measured.verdicts:
        found["sentence"] = "No recommendation yet: no stage has ended."
    return d.Recommendation.model_validate(found)


def _loss_caveats(losses: Mapping[str, Mapping[str, int]]) -> list[str]:
    lines = []
    for name, words in LOSSES.items():
        cells = [f"{cell} ({wording.count(count)})" for cell, count in sorted(losses.get(name, {}).items())]
        more = [f"{len(cells) - LISTED} more"] if len(cells) > LISTED else []
        if cells:
            lines.append(f"{words}: {', '.join(cells[:LISTED] + more)}.")
    return lines


def _verdicts(verdicts: Mapping[str, Verdict], rules: Mapping[str, int]) -> list[d.StageVerdict]:
    return [
        d.StageVerdict(
            stage=stage,
            status=verdicts[stage].decision["status"],
            headline=wording.headline(stage, verdicts[stage].decision, verdicts[stage].evidence),
            decision=verdicts[stage].decision,
            evidence=verdicts[stage].evidence,
            rules_version=rules.get(stage, RULES_VERSION),
        )
        for stage in STAGES
        if stage in verdicts
    ]


def _sizes(strata: Mapping[tuple[str, str], Sequence[CellValues]]) -> list[d.SizeRow]:
    """One row a training size and stratum, with the measures that were taken there."""
    rows: dict[tuple[str, int | None], dict[str, Any]] = {}
    for (measure, stratum), cells in sorted(strata.items()):
        for n, group in grouped(cells, lambda c: c.n).items():
            row = rows.setdefault((stratum, n), {"n": n, "stratum": stratum, "seeds": len(by_seed(group))})
            row[measure] = _figure(level(group))
    order = ["validation", "taught", "unseen", ""]
    return [
        d.SizeRow(**row) for (s, n), row in sorted(rows.items(), key=lambda i: (order.index(i[0][0]), i[0][1] or 0))
    ]


def _learning(measured: Measured) -> list[d.Learning]:
    """n* (or the largest size measured) against the untrained base, by stratum and measure."""
    verdict = measured.verdicts.get("scale")
    n_star = verdict.decision["n"] if verdict else None
    found = []
    for (measure, stratum), cells in sorted(measured.strata.items(), key=lambda i: i[0][::-1]):
        groups = grouped(cells, lambda c: c.n)
        sizes = [n for n in groups if n is not None]
        if stratum == "validation" or None not in groups or not sizes:
            continue
        n = n_star if n_star in sizes else max(sizes)
        gap = _gap(compare(groups[n], groups[None]))
        if gap:
            found.append(d.Learning(n=n, stratum=stratum, measure=measure, gap=gap))  # type: ignore[arg-type]
    return found


def _bases(measured: Measured) -> list[d.BaseRow]:
    """In the order of the ranking; untrained references last."""
    verdict = measured.verdicts.get("bases")
    if verdict is None:
        return []
    rank = {row["base"]: index for index, row in enumerate(verdict.decision["ranking"])}
    rows = sorted(verdict.evidence["bases"], key=lambda row: (rank.get(row["base"], len(rank)), row["base"]))
    return [_base_row(measured, verdict, row) for row in rows]


def _base_row(measured: Measured, verdict: Verdict, row: Mapping[str, Any]) -> d.BaseRow:
    facts = measured.facts.get(row["base"], BaseFacts())
    keys = [CellKey("bases", cell) for cell in row["cells"]]
    untrained = CellKey("bases", Cell("bases", row["base"]).label)
    parity = [measured.metrics[key]["parity.ok"] for key in keys if "parity.ok" in measured.metrics.get(key, {})]
    return d.BaseRow(
        base=row["base"],
        family=facts.family,
        parameters=facts.parameters,
        n=row["n"],
        adapter=row.get("adapter", False),
        seeds=row["seeds"],
        score=_from_json(d.Figure, row["score"]),
        untrained=_from_json(d.Figure, row["untrained"]),
        gain=_from_json(d.Gap, row["gain"]),
        bits_per_byte=_metric(measured, keys, "bits_per_byte") if row["score"] else None,
        bits_per_byte_untrained=_metric(measured, [untrained], "bits_per_byte"),
        bytes=_metric(measured, keys, "convert.bytes"),
        parity_ok=min(parity) > 0 if parity else None,
        seconds=_timed(measured, keys),
        chosen=row["base"] in verdict.decision["chosen"],
    )


def _pairs(verdict: Verdict | None) -> list[d.PairRow]:
    return [
        d.PairRow(a=p["a"], b=p["b"], relation=p["relation"], needs=p["needs"], gap=_from_json(d.Gap, _gap_of(p)))
        for p in (verdict.evidence["pairs"] if verdict else [])
    ]


def _gap_of(pair: Mapping[str, Any]) -> dict[str, Any]:
    return {key: pair[key] for key in d.Gap.model_fields if key in pair}


def _formats(measured: Measured, advice: d.Recommendation) -> list[d.FormatRow]:
    verdict = measured.verdicts.get("quantization")
    return [
        _format_row(measured, base["base"], row, (base["base"], row["format"]) == (advice.base, advice.format))
        for base in (verdict.evidence["bases"] if verdict else [])
        for row in base["formats"]
    ]


def _format_row(measured: Measured, base: str, row: Mapping[str, Any], recommended: bool) -> d.FormatRow:
    keys = [CellKey("quantization", cell) for cell in row["cells"]]
    # The reference's own parity, where it has one, is to the model that it was made of.
    to_f16 = [] if row["relation"] == "reference" else keys
    prompts = _metric(measured, to_f16, "parity.prompts")
    return d.FormatRow(
        base=base,
        format=row["format"],
        relation=row["relation"],
        score=d.Figure(**{key: row[key] for key in d.Figure.model_fields}),
        gap=_from_json(d.Gap, row["difference"]),
        needs=row["needs"],
        bytes=_metric(measured, keys, "convert.bytes"),
        kl=_metric(measured, to_f16, "parity.kl"),
        agree=_metric(measured, to_f16, "parity.agree"),
        prompts=None if prompts is None else round(prompts),
        seconds=_timed(measured, keys),
        recommended=recommended,
    )


def _parity_warnings(measured: Measured) -> list[str]:
    return [
        f"The GGUF of {key.cell} ({key.stage}) failed the parity check: "
        + (
            f"{values['parity.tokenizer_mismatches']:.0f} prompts are tokenized differently."
            if values.get("parity.tokenizer_mismatches")
            else f"it picks the same token in {values.get('parity.agree', 0):.0%} of the positions."
        )
        for key, values in sorted(measured.metrics.items())
        if values.get("parity.ok") == 0
    ]


def _not_claimed(measured: Measured) -> list[str]:
    """What a reader might take this report to say, and it doesn't."""
    lines = [
        "Intervals are 95 % percentile bootstrap intervals over examples. They say how much a figure would move with "
        "other questions of this kind, not with other seeds, other data or other settings.",
        "Intervals are not adjusted for the number of comparisons.",
        "Answers are greedy, under one decoding setting; other settings may rank the cells differently.",
        "Timings hold for the machine they were measured on"
        + (f" ({measured.hardware})." if measured.hardware else "."),
    ]
    if measured.spec.judge.kind == "key_facts":
        lines.insert(
            0,
            "The judge looks for key facts in the answer. It is not calibrated on human labels, sees no style, does "
            "not punish wrong statements beside a right one, and does not understand negation: an answer that denies "
            "a key fact (…ではありません) counts as stating it.",
        )
    else:
        lines.insert(
            0,
            "The judge is a language model. It is not calibrated on human labels, may favour answers that resemble its "
            "own, and may be misled by an answer. Answers that it left without a score are counted and in no mean.",
        )
    if any(stratum == "" for _, stratum in measured.strata):
        lines.append(
            "The test questions are held-out pairs; whether their facts are taught elsewhere in the training data is "
            "not known, so what was learned and what was generalized cannot be told apart."
        )
    unseen = [row for row in _learning(measured) if row.stratum == "unseen" and row.measure != "nll"]
    if unseen and not any(row.shown_better for row in unseen):
        lines.append("Fine-tuning is not shown to help on facts that the training data does not state.")
    return lines


def _metric(measured: Measured, keys: Sequence[CellKey], name: str) -> float | None:
    values = [measured.metrics[key][name] for key in keys if name in measured.metrics.get(key, {})]
    return sum(values) / len(values) if values else None


def _timed(measured: Measured, keys: Sequence[CellKey]) -> d.Seconds | None:
    return next((seconds(measured.timings[key]) for key in keys if key in measured.timings), None)


def _figure(found: Level | None) -> d.Figure | None:
    return d.Figure(**vars(found)) if found else None


def _gap(found: Difference | None) -> d.Gap | None:
    return d.Gap(**vars(found)) if found else None


def _from_json(model: type[Model], value: Mapping[str, Any]) -> Model | None:
    return model.model_validate(value) if value else None
