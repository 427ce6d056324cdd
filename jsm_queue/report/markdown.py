"""The report as Markdown: the figures of the HTML page, without its charts. Every text is escaped."""

import html
import re
from collections.abc import Iterable, Iterator, Sequence

from jsm_queue import wording
from jsm_queue.report import data as d
from jsm_queue.report.words import MEASURES, QUESTIONS, STRATA, answers_of, details, listed, prompts, sure

Rows = Iterable[Sequence[str]]


def render_markdown(report: d.ReportData) -> str:
    """The whole report, the same for the same data; headings, lists and tables of GitHub's dialect."""
    parts = [
        _head(report),
        _verdicts(report),
        _scale(report),
        _bases(report),
        _formats(report),
        _section("Parity warnings", report.parity_warnings),
        _answers(report),
        _timings(report),
        _data(report),
        _section("What this does not claim", report.not_claimed),
        _study(report),
    ]
    return "\n\n".join("\n".join(lines) for part in parts if (lines := list(part))) + "\n"


def text(value: str) -> str:
    """A text of a user or a model on one line, in which nothing is Markdown or HTML."""
    plain = html.escape(" ".join(value.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", plain)


def _head(report: d.ReportData) -> Iterator[str]:
    best = report.recommendation
    yield f"# {text(report.study.name)}"
    yield ""
    if report.study.state != "ended":
        yield f"*This study is {text(report.study.state)}: below is what was known when this report was made.*"
        yield ""
    yield f"**{text(best.sentence)}** ({sure(report)})"
    yield from _list("It rests on", best.rests_on)
    excluded = [f"Ruled out by the limits: {row.base} {row.format} ({row.why})" for row in best.excluded]
    yield from _list("Keep in mind", [*best.caveats, *excluded])
    yield from _list("Not measured, because a job failed", report.missing)


def _verdicts(report: d.ReportData) -> Iterator[str]:
    rows = []
    for verdict in report.verdicts:
        lines = dict.fromkeys([*verdict.headline.split("; "), *details(verdict, report.learning)])
        rows.append([QUESTIONS[verdict.stage], verdict.status, "<br>".join(map(text, lines))])
    yield from _table("Verdicts", ["stage", "status", "verdict"], rows)


def _scale(report: d.ReportData) -> Iterator[str]:
    headings = ["training size", "examples", "seeds", "NLL, nats/token", "key facts, nats/token", "judge score"]
    rows = [
        [
            "untrained" if row.n is None else f"n = {wording.count(row.n)}",
            STRATA[row.stratum],
            "–" if row.n is None else str(row.seeds),
            *(_figure(row.nll, 3), _figure(row.key_nll, 3), _figure(row.score)),
        ]
        for row in report.sizes
    ]
    yield from _table("Scale: how much data?", headings, rows)
    changes = [[STRATA[row.stratum], MEASURES[row.measure], _gap(row.gap), _change(row)] for row in report.learning]
    if changes:
        yield ""
        yield f"What fine-tuning on n = {wording.count(report.learning[0].n)} changed, against the untrained base:"
        yield from _table("", ["test questions", "measure", "change", ""], changes)


def _change(row: d.Learning) -> str:
    return "better" if row.shown_better else "worse" if row.gap.excludes_zero else "not shown"


def _bases(report: d.ReportData) -> Iterator[str]:
    headings = ["base", "judge score", "untrained", "gain", "bits/byte", "s/question p50 · p95", "parity"]
    rows = [
        [
            text(row.base) + (" (given adapter)" if row.adapter else "") + (" **chosen**" if row.chosen else ""),
            *(_figure(row.score), _figure(row.untrained), _gap(row.gain), _number(row.bits_per_byte, 3)),
            *(_timing(row.seconds), "–" if row.parity_ok is None else "ok" if row.parity_ok else "failed"),
        ]
        for row in report.bases
    ]
    yield from _table("Bases: which base?", headings, rows)
    pairs = [
        [f"{text(row.a)} against {text(row.b)}", row.relation, _gap(row.gap), _needs(row.needs)] for row in report.pairs
    ]
    yield from _table("", ["pair", "", "difference of scores", "to decide"], pairs)


def _formats(report: d.ReportData) -> Iterator[str]:
    headings = ["base", "format", "file", "judge score", "", "difference to the reference", "KL to F16", "same token"]
    rows = [
        [
            text(row.base),
            row.format + (" **recommended**" if row.recommended else ""),
            wording.size(row.bytes) if row.bytes else "–",
            *(_figure(row.score), row.relation, _gap(row.gap), _number(row.kl, 4)),
            *("–" if row.agree is None else f"{row.agree:.1%}", _timing(row.seconds)),
        ]
        for row in report.formats
    ]
    yield from _table("Quantization: which format?", [*headings, "s/question p50 · p95"], rows)
    if prompts(report):
        yield ""
        yield f"KL and same token: means over the answers to {prompts(report)} test questions of each training."


def _answers(report: d.ReportData) -> Iterator[str]:
    if report.examples:
        yield "## Answers side by side"
        yield ""
        yield f"{answers_of(report)}."
    for example in report.examples:
        yield ""
        yield f"**{text(example.question)}**  "
        yield f"Reference: {text(example.reference) or '–'}"
        yield ""
        for answer in example.answers:
            score = "" if answer.score is None else f", {answer.score:.1f} of 3"
            cut = " … cut at the token limit" if answer.cut else ""
            yield f"- {text(answer.cell)} ({answer.format}{score}): {text(answer.text) or '(empty)'}{cut}"


def _timings(report: d.ReportData) -> Iterator[str]:
    headings = ["cell", "stage", "s/question p50 · p95", "tokens/s", "answers", "machine"]
    rows = [
        [
            *(text(row.cell), row.stage, _timing(row.seconds), _number(row.seconds.tokens_per_second, 0)),
            *(str(row.seconds.count), text(row.hardware)),
        ]
        for row in report.timings
    ]
    yield from _table("Timings", headings, rows)


def _data(report: d.ReportData) -> Iterator[str]:
    found = report.data_report
    if found is None:
        return
    yield "## Data"
    yield ""
    yield f"{text(listed(report.data.model_dump()))}."
    if found.ignored_columns:
        yield f"Columns that mean nothing here: {text(', '.join(found.ignored_columns))}."
    rows = [
        [text(row.what), what, wording.count(row.count), text(", ".join(row.examples))]
        for what, rows in (("left out", found.dropped), ("kept", found.odd))
        for row in rows
    ]
    yield from _table("", ["found", "", "times", "for example"], rows)


def _study(report: d.ReportData) -> Iterator[str]:
    study = report.study
    facts = {
        "id": study.id,
        "submitted": study.created_at or "",
        "ended": study.ended_at or "",
        "jobs": listed(study.jobs),
        "examples": listed(report.data.model_dump()),
        "training": listed(study.training),
        "judge": f"{study.judge.replace('_', ' ')}, 0–3",
        "hardware": " · ".join(study.hardware),
        "versions": listed(study.versions),
    }
    yield from _table("The study", ["", ""], [[name, text(value)] for name, value in facts.items() if value])


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"## {title}"
        yield ""
        yield from (f"- {text(line)}" for line in lines)


def _list(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield f"{title}:"
        yield ""
        yield from (f"- {text(line)}" for line in lines)


def _table(title: str, headings: Sequence[str], rows: Rows) -> Iterator[str]:
    """A heading and a table, of cells that are Markdown already; nothing without rows."""
    rows = list(rows)
    if not rows:
        return
    if title:
        yield f"## {title}"
    yield ""
    yield f"| {' | '.join(headings)} |"
    yield "|---" * len(headings) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _figure(value: d.Figure | None, digits: int = 2) -> str:
    return wording.interval(vars(value), digits).replace("[", r"\[").replace("]", r"\]") if value else "–"


def _gap(value: d.Gap | None) -> str:
    return wording.signed(vars(value)).replace("[", r"\[").replace("]", r"\]") if value else "–"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _timing(value: d.Seconds | None) -> str:
    return f"{wording.seconds(value.p50)} · {wording.seconds(value.p95)}" if value else "–"


def _needs(count: int | None) -> str:
    return f"about {wording.count(count)} questions" if count else "–"
