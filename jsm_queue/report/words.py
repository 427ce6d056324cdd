"""What the report says, the same on its HTML page and in Markdown."""

from typing import Any

from jsm_queue import wording
from jsm_queue.report.data import Learning, ReportData, StageVerdict

QUESTIONS = {
    "scale": "How much data?",
    "bases": "Which base?",
    "quantization": "Which format?",
}
STRATA = {
    "validation": "validation",
    "taught": "test · taught facts",
    "unseen": "test · unseen facts",
    "": "test · held-out pairs",
}
MEASURES = {"nll": "NLL, answer", "key_nll": "NLL, key facts", "score": "judge score"}


def sure(report: ReportData) -> str:
    """How sure the recommendation is."""
    if report.recommendation.status == "none":
        return "nothing to recommend"
    decided = sum(verdict.status == "decided" for verdict in report.verdicts)
    return f"{decided} of {len(report.verdicts)} verdicts decided"


def prompts(report: ReportData) -> str:
    """How many prompts the divergences of the formats rest on."""
    return " or ".join(str(count) for count in sorted({row.prompts for row in report.formats if row.prompts}))


def answers_of(report: ReportData) -> str:
    """Under which heading the example answers stand."""
    count = len(report.examples)
    return f"{count} question{'s' if count != 1 else ''}, the first of each category: not chosen by result"


def details(verdict: StageVerdict, learning: list[Learning]) -> list[str]:
    """A verdict in a few lines: what was decided beside its large figure, and what was seen."""
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


def listed(values: dict[str, Any]) -> str:
    """{"done": 39, "failed": 0} → "done 39"."""
    return " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items() if value)
