"""The report as one self-contained HTML file: charts inline, no script, nothing fetched, every text escaped."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from jsm_queue import wording
from jsm_queue.report import charts, words
from jsm_queue.report.data import Figure, Gap, ReportData, Seconds


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
        "details": words.details,
        "tight": _tight,
        "listed": words.listed,
    }
    page = env.get_template("template.html")
    return page.render(
        r=report,
        charts=_charts(report),
        words=words,
        answers_of=words.answers_of(report),
        prompts=words.prompts(report),
        sure=words.sure(report),
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


def _tight(text: str) -> str:
    """Numbers stay beside their units and thousands at the end of a line."""
    return re.sub(r"(?<=\d) (?=(?:%|s\b|[kMG]B\b|\d{3}\b))", "\u00a0", text)
