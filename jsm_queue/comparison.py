"""The values of cells, and how they compare: levels and paired differences, each with its interval.

Everything here is rounded to `DIGITS`, so that decisions are made from the very numbers that are shown, and
the last bits of a sum, which differ between processors, decide nothing.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from jsm_queue import stats
from jsm_queue.data.keyfacts import TOP_SCORE

DIGITS = 6
MIN_ITEMS = 5  # below this a bootstrap says nothing, and nothing is decided

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class CellValues:
    """What a cell measured. `n` None: untrained, or with an `adapter` that was given. `cell` is its label, which
    begins with its base's name.

    `values`: item → NLL sum in nats (scale) or judge score 0–3 (bases, quantization); `weights`: item →
    answer tokens (scale), else empty; `metrics`: figures of the whole cell: "bytes" (file size), "kl" (nats
    a token), "bits_per_byte", "parity_ok" (1 or 0), "questions" and how many of them are "unjudged".
    """

    cell: str
    base: str
    n: int | None
    seed: int | None
    format: str | None
    values: Mapping[str, float]
    weights: Mapping[str, float]
    metrics: Mapping[str, float]
    adapter: bool = False

    @property
    def tuned(self) -> bool:
        """Was it fine-tuned, here or elsewhere?"""
        return self.n is not None or self.adapter


@dataclass(frozen=True)
class Level:
    """The mean over `items` examples, with its 95 % interval."""

    estimate: float
    low: float
    high: float
    items: int


@dataclass(frozen=True)
class Difference:
    """The mean paired difference first − second over `items` examples, with its 95 % interval.

    `sd`: of one example's difference. `changed`: how many examples differ at all.
    """

    difference: float
    low: float
    high: float
    items: int
    sd: float
    changed: int


@dataclass(frozen=True)
class ScoreDifference(Difference):
    """Of judge scores. `least`, `most`: one-sided 95 % limits of the mean that allow for what none of the
    examples showed (`stats.least_mean`), while a bootstrap interval of equal scores has no width.
    """

    least: float
    most: float


def rounded(value: float) -> float:
    """`DIGITS` decimals; never minus zero."""
    return round(float(value), DIGITS) + 0.0


def usable(cells: Iterable[CellValues]) -> tuple[list[CellValues], list[str]]:
    """The cells with values, all finite, in a fixed order; and the labels of the others."""
    ordered = sorted(cells, key=lambda c: (c.base, c.n or 0, c.seed or 0, c.format or "", c.cell))
    good = [c for c in ordered if c.values and _finite(c.values) and _finite(c.weights)]
    return [_tidy(c) for c in good], sorted({c.cell for c in ordered} - {c.cell for c in good})


def grouped(cells: Iterable[CellValues], key: Callable[[CellValues], Key]) -> dict[Key, list[CellValues]]:
    """The cells by key, keys and cells in the order they come."""
    groups: dict[Key, list[CellValues]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return groups


def level(cells: Sequence[CellValues]) -> Level | None:
    """The cells' mean: over seeds for each example, then over examples. None without a common example."""
    means = stats.over_seeds([cell.values for cell in cells])
    items, weights = _weighted(cells, means)
    if not items:
        return None
    interval = stats.mean_interval([means[item] for item in items], weights)
    return Level(*map(rounded, interval), items=len(items))


def compare(first: Sequence[CellValues], second: Sequence[CellValues]) -> Difference | None:
    """first − second, paired over the examples they share. None with fewer than `MIN_ITEMS` of them.

    Seeds that only one side has are left out where both sides share some: subsets are nested within a seed.
    """
    differences, weights = _paired(first, second)
    return Difference(**_summary(differences, weights)) if len(differences) >= MIN_ITEMS else None


def compare_scores(first: Sequence[CellValues], second: Sequence[CellValues]) -> ScoreDifference | None:
    """`compare`, of judge scores."""
    differences, weights = _paired(first, second)
    if len(differences) < MIN_ITEMS:
        return None
    least = rounded(stats.least_mean(differences, -TOP_SCORE))
    most = rounded(-stats.least_mean([-each for each in differences], -TOP_SCORE))
    return ScoreDifference(**_summary(differences, weights), least=least, most=most)


def _paired(first: Sequence[CellValues], second: Sequence[CellValues]) -> tuple[list[float], list[float] | None]:
    """first − second of each example that both have, in the order of their names, and the weights if any."""
    shared = {cell.seed for cell in first} & {cell.seed for cell in second}
    if shared:
        first, second = ([cell for cell in side if cell.seed in shared] for side in (first, second))
    left, right = (stats.over_seeds([cell.values for cell in side]) for side in (first, second))
    items, weights = _weighted([*first, *second], {item: 0.0 for item in left if item in right})
    return [rounded(left[item] - right[item]) for item in items], weights


def _summary(differences: Sequence[float], weights: Sequence[float] | None) -> dict[str, Any]:
    estimate, low, high = map(rounded, stats.mean_interval(differences, weights))
    return {
        "difference": estimate,
        "low": low,
        "high": high,
        "items": len(differences),
        "sd": rounded(stats.spread(differences, weights)),
        "changed": sum(map(bool, differences)),
    }


def by_seed(cells: Sequence[CellValues]) -> dict[str, float]:
    """Each seed's own mean, keyed by the seed as text ("-" for the untrained)."""
    means = {}
    for cell in cells:
        items, weights = _weighted([cell], cell.values)
        if items:
            total = math.fsum(cell.values[item] for item in items)
            means["-" if cell.seed is None else str(cell.seed)] = rounded(
                total / (math.fsum(weights) if weights else len(items))
            )
    return means


def at_top(cells: Sequence[CellValues]) -> float:
    """The share of full scores, of the cell that has the fewest of them."""
    return rounded(min(sum(v >= TOP_SCORE for v in cell.values.values()) / len(cell.values) for cell in cells))


def metric(cells: Sequence[CellValues], name: str, over: Callable[[list[float]], float]) -> float | None:
    """A metric over the cells that have it, by `over` (`min`, `statistics.fmean`, …); None where none has."""
    found = [cell.metrics[name] for cell in cells if math.isfinite(cell.metrics.get(name, math.nan))]
    return rounded(over(found)) if found else None


def fields(value: Level | Difference | None) -> dict[str, Any]:
    """As JSON; an empty object for None."""
    return dict(vars(value)) if value else {}


def _weighted(cells: Sequence[CellValues], values: Mapping[str, float]) -> tuple[list[str], list[float] | None]:
    """The items of `values` that have a weight, sorted, and the weights; all and None where none is."""
    if not any(cell.weights for cell in cells):
        return sorted(values), None
    weights = stats.over_seeds([cell.weights for cell in cells])
    items = [item for item in sorted(values) if weights.get(item, 0) > 0]
    return items, [weights[item] for item in items]


def _finite(values: Mapping[str, float]) -> bool:
    return all(math.isfinite(value) for value in values.values())


def _tidy(cell: CellValues) -> CellValues:
    return replace(cell, values={item: rounded(value) for item, value in sorted(cell.values.items())})
