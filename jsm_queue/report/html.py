"""The report as one self-contained HTML file: charts inline, no script, nothing fetched, every text escaped."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from jsm_queue import wording
from jsm_queue.report import charts
from jsm_queue.report.data import Figure, Gap, Learning, ReportData, Seconds, StageVerdict

QUESTIONS = {
    "scale": "How much data?",
    "bases": "Which base?",
    "quantization": "Which format?",
}


def render_html(report: ReportData) -> str:
    """The whole page, the same for the same report."""
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "figure": _figure,
        "gap": _gap,
        "size": wording.size,
        "seconds": wording.seconds,
        "count": wording.count,
        "timing": _timing,
        "big": _big,
        "details": _details,
        "tight": _tight,
        "listed": _listed,
    }
    page = env.get_template("template.html")
    return page.render(
        r=report,
        charts=_charts(report),
        questions=QUESTIONS,
        answers_of=_answers_of(report),
        prompts=_prompts(report),
        sure=_sure(report),
    )


def _charts(report: ReportData) -> dict[str, Markup | None]:
    scale = report.verdict("scale")
    n_star = scale.decision["n"] if scale else None
    bases = [(row.base, row.seconds) for row in report.bases if row.seconds]
    several = len({row.base for row in report.formats}) > 1
    formats = [
        (f"{row.base}  {row.format}" if several else row.format, row.seconds) for row in report.formats if row.seconds
    ]
    drawn = {
        "nll": charts.size_chart(report.sizes, "nll", n_star),
        "key_nll": charts.size_chart(report.sizes, "key_nll", n_star),
        "score": charts.size_chart(report.sizes, "score", n_star),
        "bases": charts.bases_chart(report.bases),
        "bases_seconds": charts.seconds_chart(bases, "bases-seconds"),
        "formats": charts.formats_chart(report.formats),
        "bytes": charts.bytes_chart(report.formats),
        "seconds": charts.seconds_chart(formats, "formats-seconds"),
        "tradeoff": charts.tradeoff_chart(report.formats),
    }
    return {name: Markup(chart) if chart else None for name, chart in drawn.items()}


def _sure(report: ReportData) -> str:
    """How sure the recommendation is, on its pill."""
    if report.recommendation.status == "none":
        return "nothing to recommend"
    decided = sum(verdict.status == "decided" for verdict in report.verdicts)
    return f"{decided} of {len(report.verdicts)} verdicts decided"


def _prompts(report: ReportData) -> str:
    """How many prompts the divergences of the formats rest on."""
    return " or ".join(str(count) for count in sorted({row.prompts for row in report.formats if row.prompts}))


def _answers_of(report: ReportData) -> str:
    """Under which heading the example answers stand."""
    count = len(report.examples)
    return f"{count} question{'s' if count != 1 else ''}, the first of each category: not chosen by result"


def _figure(value: Figure | None, digits: int = 2) -> Markup:
    if value is None:
        return Markup('<span class="none">–</span>')
    return _with_interval(f"{value.estimate:.{digits}f}", f"{value.low:.{digits}f}", f"{value.high:.{digits}f}")


def _gap(value: Gap | None, digits: int = 2) -> Markup:
    if value is None:
        return Markup('<span class="none">–</span>')
    return _with_interval(f"{value.difference:+.{digits}f}", f"{value.low:+.{digits}f}", f"{value.high:+.{digits}f}")


def _with_interval(estimate: str, low: str, high: str) -> Markup:
    return Markup('<b>{}</b> <span class="ci">[{}, {}]</span>').format(*map(_minus, (estimate, low, high)))


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _timing(value: Seconds | None) -> Markup:
    if value is None:
        return Markup('<span class="none">–</span>')
    return Markup("<b>{}</b> · {}").format(wording.seconds(value.p50), wording.seconds(value.p95))


def _big(decision: dict[str, Any], stage: str) -> str:
    """What stands large on a verdict's card."""
    if decision["status"] == "failed":
        return "failed"
    if stage == "scale":
        return f"n* = {wording.count(decision['n'])}"
    return ", ".join(decision["chosen"]) if stage == "bases" else str(decision["format"])


def _details(verdict: StageVerdict, learning: list[Learning]) -> list[str]:
    """What stands below it."""
    headline = verdict.headline.split("; ")
    if verdict.status == "failed":
        return headline
    if verdict.stage == "scale":
        return headline[1:] + _scale_details(verdict) + _learned(learning)
    if verdict.stage == "bases":
        rows = [row for row in verdict.evidence["bases"] if row["base"] in verdict.decision["chosen"] and row["gain"]]
        return headline + [f"{row['base']} over itself untrained: {wording.signed(row['gain'])}" for row in rows]
    return headline


def _scale_details(verdict: StageVerdict) -> list[str]:
    chosen = next(row for row in verdict.evidence["sizes"] if row["n"] == verdict.decision["n"])
    untrained = verdict.evidence["untrained"]
    words = f"validation NLL {wording.interval(chosen)}"
    return [words + (f", untrained {untrained['estimate']:.2f}" if untrained else "")]


def _learned(learning: list[Learning]) -> list[str]:
    """Whether the judge saw facts learned, by stratum."""
    return [
        f"{f'{row.stratum} facts' if row.stratum else 'test questions'} {row.gap.difference:+.2f} points"
        + (" over untrained" if row.shown_better else ": no gain shown")
        for row in learning
        if row.measure == "score"
    ]


def _tight(text: str) -> str:
    """Numbers stay beside their units and thousands at the end of a line."""
    return re.sub(r"(?<=\d) (?=(?:%|s\b|[kMG]B\b|\d{3}\b))", "\u00a0", text)


def _listed(values: dict[str, Any]) -> str:
    """{"done": 39, "failed": 0} → "done 39"."""
    return " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items() if value)
