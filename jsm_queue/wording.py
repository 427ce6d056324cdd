"""Verdicts in a few plain words: the same on the terminal, in the report and in the recommendation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]


def count(value: float) -> str:
    """1234 → "1 234"."""
    return f"{value:,.0f}".replace(",", " ")


def size(value: float) -> str:
    """Bytes in powers of ten, as file managers of today show them: 6200000 → "6.2 MB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.{2 if unit == 'GB' else 1}f} {unit}"
    return f"{value:.0f} B"


def seconds(value: float) -> str:
    """About two significant digits, from ten on whole seconds: 0.3141 → "0.31 s"."""
    digits = 0 if value >= 10 else 1 if value >= 1 else 2 if value >= 0.1 else 3
    return f"{value:.{digits}f} s"


def interval(value: Json, digits: int = 2, key: str = "estimate") -> str:
    """{"estimate", "low", "high"} → "1.58 [1.21, 1.94]"."""
    return f"{value[key]:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def signed(value: Json, digits: int = 2) -> str:
    """{"difference", "low", "high"} → "+0.46 [+0.21, +0.70]"."""
    return f"{value['difference']:+.{digits}f} [{value['low']:+.{digits}f}, {value['high']:+.{digits}f}]"


def place(cell: str, kinds: Sequence[str]) -> str:
    """A cell with the kinds of job that are meant: "a n=250 seed=1 (parity)"."""
    return f"{cell} ({', '.join(kinds)})" if kinds else cell


def silence(decision: Json) -> str:
    """Which bases a bench cannot tell apart, and why: the last one that was chosen and the first one left out."""
    cut = len(decision["chosen"])
    names = [row["base"] for row in decision["ranking"][cut - 1 : cut + 1]]
    end = "right" if decision["bench_cannot_tell"] == "ceiling" else "wrong"
    return f"the bench cannot tell {' from '.join(names)}: nearly all their answers are {end}"


TOO = {"ceiling": "the bench is too easy", "floor": "the bench is too hard"}
"""Why a bench cannot tell."""


def headline(stage: str, decision: Json, evidence: Json) -> str:
    """One line: what the stage decided, or that it did not."""
    if decision["status"] == "failed":
        return "failed: nothing was measured"
    words = _HEADLINES[stage](decision, evidence)
    return f"{words}; undecided: {unjudged(decision)}" if decision.get("unjudged") else words


def unjudged(decision: Json) -> str:
    """Whose answers the judge left without a score, more of them than a verdict can stand."""
    return f"too many answers have no score of the judge ({', '.join(decision['unjudged'])})"


def _scale(decision: Json, evidence: Json) -> str:
    words = [f"n* = {count(decision['n'])}"]
    if decision["best"] != decision["n"]:
        words.append(f"not worse than n = {count(decision['best'])}")
    if decision["still_falling"]:
        words.append("still falling, more data may help")
    if decision["status"] == "undecided":
        words.append("undecided: " + evidence["reasons"][0])
    return "; ".join(words)


def _bases(decision: Json, evidence: Json) -> str:
    ranking = decision["ranking"]
    first = f"{ranking[0]['base']} {interval(ranking[0], key='score')}"
    if len(ranking) == 1:
        return f"{first}, the only base measured"
    second = f"{ranking[1]['base']} {interval(ranking[1], key='score')}"
    if decision["bench_cannot_tell"]:
        return f"{first}; undecided: {silence(decision)}"
    pair = evidence["pairs"][0]
    link = {"better": "over", "equivalent": "≈", "undecided": "undecided against"}[pair["relation"]]
    return f"{first} {link} {second}" + _needs(pair)


def _quantization(decision: Json, evidence: Json) -> str:
    formats = evidence["bases"][0]["formats"]
    reference = formats[0]["format"]
    chosen = decision["format"]
    words = [f"{chosen} ≈ {reference}" if chosen != reference else f"{chosen}: no smaller format is shown equivalent"]
    words += [f"{f['format']} undecided{_needs(f)}" for f in formats if f["relation"] == "undecided"]
    words += [f"{f['format']} worse" for f in formats if f["relation"] == "worse"]
    if end := decision.get("bench_cannot_tell"):
        words.append(f"{TOO[end]} to tell formats apart")
    return "; ".join(words) if len(formats) > 1 else f"{chosen}, the only format measured"


def _needs(row: Json) -> str:
    return f": needs ~{count(row['needs'])} questions" if row["needs"] else ""


_HEADLINES: dict[str, Callable[[Json, Json], str]] = {
    "scale": _scale,
    "bases": _bases,
    "quantization": _quantization,
}
