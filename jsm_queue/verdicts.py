"""What a stage decides from its cells' values. Pure: equal values in any order give equal bytes.

A claim is made only where a 95 % interval over examples carries it; everything else is "undecided", with an
estimate of how many examples would decide. Equivalence needs more: scores that never differed have an
interval without width, so also the limit that allows for what no question showed must lie within the margin.
How intervals and limits are made: `jsm_queue/stats.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from jsm_queue import stats
from jsm_queue.comparison import (
    CellValues,
    Difference,
    ScoreDifference,
    at_top,
    by_seed,
    compare,
    compare_scores,
    fields,
    grouped,
    level,
    metric,
    rounded,
    usable,
)
from jsm_queue.data.keyfacts import TOP_SCORE

RULES_VERSION = 3

NLL_MARGIN = 0.02
"""How much worse, relative to the best NLL, still counts as not worse. A doubling of the data lowers the NLL
by 10–20 % while it pays; a tenth to a fifth of that is not worth training twice as long."""

SCORE_MARGIN = 0.15
"""Points of 0–3 within which two scores are equivalent: 5 % of the scale, or one question in twenty answered
rightly instead of wrongly. Where no question differs, 60 of them exclude more (3 · 3 / 60)."""

CEILING = 2.8
FLOOR = 0.2
"""Where the means on both sides of the cut are beyond one of these, nearly all answers are right (wrong): the
bench cannot tell who belongs on which side."""

TOP_SHARE = 0.9
"""Where so many scores are full ones on both sides, that is a ceiling too, whatever the few others are."""

UNJUDGED = SCORE_MARGIN / TOP_SCORE
"""The largest share of a cell's answers that a judge may leave without a score. Each of them might have had any score,
so a twentieth of them can move a mean by the whole margin: beyond it they alone could undo what the others show."""

PRECISION = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
"""Formats from the most to the least precise; the first one present is the reference of stage 3."""


@dataclass(frozen=True)
class Verdict:
    """`decision`: what follows, comparable bytes. `evidence`: what it rests on. Both JSON, floats rounded."""

    decision: dict[str, Any]
    evidence: dict[str, Any]


def scale_verdict(cells: Sequence[CellValues], missing: Sequence[str]) -> Verdict:
    """n*: the smallest training size shown not worse than the best one (validation NLL, nats a token).

    Not worse: the upper end of the paired interval of the difference is within `NLL_MARGIN` of the best NLL
    (non-inferiority, one-sided 2.5 %). A smaller size that is neither shown worse nor not worse leaves n*
    standing but the verdict undecided.
    """
    good, lost = usable(cells)
    sizes = grouped([c for c in good if c.n is not None], lambda c: c.n or 0)
    untrained = [c for c in good if c.n is None]
    levels = {n: found for n in sorted(sizes) if (found := level(sizes[n]))}
    evidence: dict[str, Any] = {"untrained": fields(level(untrained)), "sizes": [], "reasons": []}
    missing = sorted({*missing, *lost})
    if not levels:
        decision = {
            "n": None,
            "status": "failed",
            "best": None,
            "still_falling": False,
            "beats_untrained": False,
        }
        return Verdict(decision | {"missing": missing}, evidence)
    best = min(levels, key=lambda n: (levels[n].estimate, n))
    margin = rounded(NLL_MARGIN * abs(levels[best].estimate))
    rows = {n: _size_row(sizes[n], compare(sizes[n], sizes[best]), margin) for n in levels}
    rows[best]["relation"] = "best"
    n_star = min(n for n in levels if rows[n]["relation"] in ("best", "not_worse"))
    gain = compare(sizes[best], untrained) if untrained else None
    last = compare(sizes[max(levels)], sizes[sorted(levels)[-2]]) if len(levels) > 1 else None
    reasons = _scale_reasons(rows, n_star, bool(untrained), gain)
    evidence |= {"margin": margin, "sizes": [{"n": n} | rows[n] for n in levels], "reasons": reasons}
    evidence |= {"gain": fields(gain), "last_step": fields(last)}
    decision = {
        "n": n_star,
        "status": "undecided" if reasons else "decided",
        "best": best,
        "still_falling": bool(last and last.high < 0),
        "beats_untrained": bool(gain and gain.high < 0),
        "missing": missing,
    }
    return Verdict(decision, evidence)


def _size_row(cells: Sequence[CellValues], against: Difference | None, margin: float) -> dict[str, Any]:
    """A size's level, and its difference to the best size."""
    row = fields(level(cells)) | {"seeds": by_seed(cells), "difference": fields(against), "needs": None}
    if against is None:
        return row | {"relation": "undecided"}
    if against.high <= margin:
        return row | {"relation": "not_worse"}
    if against.low > 0:
        return row | {"relation": "worse"}
    reach = max(margin - against.difference, against.difference)
    return row | {"relation": "undecided", "needs": stats.needed(against.sd, reach)}


def _scale_reasons(
    rows: Mapping[int, Mapping[str, Any]], n_star: int, baseline: bool, gain: Difference | None
) -> list[str]:
    """Why the verdict is undecided; empty when it isn't."""
    reasons = [
        f"n = {n} may be enough: the examples do not tell it from n = {n_star}"
        for n, row in rows.items()
        if n < n_star and row["relation"] == "undecided"
    ]
    if len(rows) < 2:
        reasons.append("only one training size was measured")
    if baseline and not (gain and gain.high < 0):
        reasons.append("no training size is shown better than the untrained base")
    return reasons


def bases_verdict(cells: Sequence[CellValues], keep: int, missing: Sequence[str]) -> Verdict:
    """Bases ranked by mean judge score, with their pairwise relations; the `keep` best are chosen.

    Of a pair, the higher is "better" where the paired interval excludes 0, both are "equivalent" where the
    interval and its limits lie within ±`SCORE_MARGIN` (also where it excludes 0: such a difference does not
    matter). Decided: no base that was left out is undecided against one that was chosen. Equal scores are
    ranked by name: the test set breaks no tie, and untrained cells are evidence only. A base with an adapter
    that was given is ranked like one that the study trained.
    """
    good, lost = usable(cells)
    missing = sorted({*missing, *lost})
    trained = grouped([c for c in good if c.tuned], lambda c: c.base)
    untrained = grouped([c for c in good if not c.tuned], lambda c: c.base)
    rows = [_base_row(base, trained.get(base, []), untrained.get(base, [])) for base in sorted({*trained, *untrained})]
    ranked = sorted((row for row in rows if row["score"]), key=_rank)
    pairs = [_pair(trained, a["base"], b["base"]) for a, b in combinations(ranked, 2)]
    chosen = [row["base"] for row in ranked[:keep]]
    at_cut = ranked[max(keep - 1, 0) : keep + 1]
    silent = _silent([row["score"]["estimate"] for row in at_cut], [row["at_top"] for row in at_cut])
    unjudged = _unjudged([c for c in good if c.tuned])
    open_pairs = [p for p in pairs if p["a"] in chosen and p["b"] not in chosen and p["relation"] == "undecided"]
    undecided = bool(open_pairs or unjudged) or silent is not None
    decision = {
        "chosen": chosen,
        "ranking": [
            {
                "base": r["base"],
                "score": r["score"]["estimate"],
                "low": r["score"]["low"],
                "high": r["score"]["high"],
            }
            for r in ranked
        ],
        "status": "failed" if not ranked else "undecided" if undecided else "decided",
        "pairs": [{key: p[key] for key in ("a", "b", "relation")} for p in pairs],
        "bench_cannot_tell": silent,
        "unjudged": unjudged,
        "not_ranked": sorted({label.split(" ", 1)[0] for label in missing if label} - {r["base"] for r in ranked}),
        "parity_failed": _parity_failed(good),
        "missing": missing,
    }
    return Verdict(decision, {"bases": rows, "pairs": pairs})


def _base_row(base: str, trained: Sequence[CellValues], untrained: Sequence[CellValues]) -> dict[str, Any]:
    return {
        "base": base,
        "n": max((c.n or 0 for c in trained), default=None) or None,
        "adapter": any(c.adapter for c in trained),
        "cells": [c.cell for c in trained or untrained],
        "seeds": by_seed(trained),
        "score": fields(level(trained)),
        "untrained": fields(level(untrained)),
        "gain": fields(compare(trained, untrained) if trained and untrained else None),
        "bits_per_byte": metric(trained, "bits_per_byte", fmean),
        "bits_per_byte_untrained": metric(untrained, "bits_per_byte", fmean),
        "bytes": metric(trained or untrained, "bytes", fmean),
        "at_top": at_top(trained) if trained else None,
        "unjudged": metric([*trained, *untrained], "unjudged", sum),
    }


def _rank(row: Mapping[str, Any]) -> tuple[float, str]:
    return -row["score"]["estimate"], row["base"]


def _pair(trained: Mapping[str, Sequence[CellValues]], a: str, b: str) -> dict[str, Any]:
    """How `a`, ranked higher, relates to `b`."""
    found = compare_scores(trained[a], trained[b])
    pair = {"a": a, "b": b, "needs": None} | fields(found)
    if found is None:
        return pair | {"relation": "undecided"}
    if min(found.low, found.least) >= -SCORE_MARGIN and max(found.high, found.most) <= SCORE_MARGIN:
        return pair | {"relation": "equivalent"}
    if found.low > 0:
        return pair | {"relation": "better"}
    apart = abs(found.difference)
    return pair | {"relation": "undecided", "needs": _needs(found, apart, SCORE_MARGIN - apart)}


def _needs(found: ScoreDifference, apart: float, within: float) -> int | None:
    """About how many questions would show a difference or equivalence, whichever takes fewer.

    `apart`: points from the difference to 0; `within`: from the difference to the margin's end.
    """
    ways = [stats.needed(found.sd, apart), stats.needed(found.sd, within, hidden=TOP_SCORE)]
    return min((count for count in ways if count), default=None)


def _silent(scores: Sequence[float], tops: Sequence[float]) -> str | None:
    """Why the bench cannot tell apart what has these mean `scores` and shares of full scores, as the last base that
    is chosen and the first one left out: "ceiling" or "floor"; None when it may, or when there is no second one.
    """
    if len(scores) < 2:
        return None
    if min(scores) >= CEILING or min(tops) >= TOP_SHARE:
        return "ceiling"
    return "floor" if max(scores) <= FLOOR else None


def _unjudged(cells: Sequence[CellValues]) -> list[str]:
    """The cells of which too many answers have no score."""
    return sorted(c.cell for c in cells if c.metrics.get("unjudged", 0) > UNJUDGED * c.metrics.get("questions", 0))


def _parity_failed(cells: Sequence[CellValues]) -> list[str]:
    return sorted(c.cell for c in cells if c.metrics.get("parity_ok") == 0)


def quantization_verdict(cells: Sequence[CellValues], missing: Sequence[str]) -> Verdict:
    """The smallest format that is equivalent to the most precise one present, of the base that scores best.

    "equivalent": neither the lower end of the paired interval of format − reference nor its lower limit is
    below −`SCORE_MARGIN` (non-inferiority). "worse": else, and the interval's upper end is below 0. A smaller
    file that is undecided leaves the choice standing but the verdict undecided.
    """
    good, lost = usable(cells)
    missing = sorted({*missing, *lost})
    rows = [_quantized_base(base, group) for base, group in grouped(good, lambda c: c.base).items()]
    rows = sorted(
        (row for row in rows if row["formats"]), key=lambda row: (-row["formats"][0]["estimate"], row["base"])
    )
    decision: dict[str, Any] = {"base": None, "format": None, "status": "failed", "relations": {}}
    if rows:
        formats = rows[0]["formats"]
        choice = min((f for f in formats if f["relation"] in ("reference", "equivalent")), key=by_size)
        smaller = [f for f in formats if f["relation"] == "undecided" and by_size(f) < by_size(choice)]
        unjudged = _unjudged([c for c in good if c.base == rows[0]["base"]])
        status = "undecided" if smaller or unjudged else "decided"
        relations = {row["base"]: {f["format"]: f["relation"] for f in row["formats"]} for row in rows}
        decision = {
            "base": rows[0]["base"],
            "format": choice["format"],
            "status": status,
            "relations": relations,
            "bench_cannot_tell": _silent([f["estimate"] for f in formats], [f["at_top"] for f in formats]),
            "unjudged": unjudged,
        }
    return Verdict(decision | {"parity_failed": _parity_failed(good), "missing": missing}, {"bases": rows})


def _quantized_base(base: str, cells: Sequence[CellValues]) -> dict[str, Any]:
    """A base's formats from the most precise on; the first is the reference of the others."""
    groups = grouped([c for c in cells if c.format in PRECISION], lambda c: c.format or "")
    present = [fmt for fmt in PRECISION if fmt in groups and level(groups[fmt])]
    return {"base": base, "formats": [_format_row(groups, fmt, present[0]) for fmt in present]}


def _format_row(groups: Mapping[str, Sequence[CellValues]], fmt: str, reference: str) -> dict[str, Any]:
    cells = groups[fmt]
    row = fields(level(cells)) | {
        "format": fmt,
        "n": max((c.n or 0 for c in cells), default=None) or None,
        "adapter": any(c.adapter for c in cells),
        "cells": [c.cell for c in cells],
        "seeds": by_seed(cells),
        "bytes": metric(cells, "bytes", fmean),
        # The reference's, where it has one, is to the model that it was made of: nothing to compare the others with.
        "kl": None if fmt == reference else metric(cells, "kl", fmean),
        "difference": {},
        "needs": None,
        "at_top": at_top(cells),
        "unjudged": metric(cells, "unjudged", sum),
    }
    if fmt == reference:
        return row | {"relation": "reference"}
    found = compare_scores(cells, groups[reference])
    row["difference"] = fields(found)
    if found is None:
        return row | {"relation": "undecided"}
    if min(found.low, found.least) >= -SCORE_MARGIN:
        return row | {"relation": "equivalent"}
    if found.high < 0:
        return row | {"relation": "worse"}
    return row | {"relation": "undecided", "needs": _needs(found, -found.difference, SCORE_MARGIN + found.difference)}


def by_size(row: Mapping[str, Any]) -> tuple[float, int]:
    """Smallest file first; of equal or unknown sizes the less precise format is taken for the smaller."""
    size = float("inf") if row["bytes"] is None else row["bytes"]
    return size, -PRECISION.index(row["format"])
