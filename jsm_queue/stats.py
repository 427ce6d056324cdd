"""Bootstrap intervals over examples, quantiles, and how many examples a decision needs.

The unit of resampling is the example (a test item, a bench question). Where a cell was trained with several
seeds, an example's values are averaged over the seeds first, so an interval says how much the figure would
move with *other examples* for these very trainings; it does not say how much it would move with other
seeds. Two or three seeds are too few to resample, so their spread is reported beside the interval instead
of inside it.

Percentile bootstrap: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), §13.3. With few
examples its intervals are somewhat narrow (scores 0–3 of 24 questions: 92 % coverage measured instead of 95
%), and where all examples agree it has no width at all: it cannot see what never occurred. `least_mean`
allows for that, and `undetected_share` puts it in words. Intervals are 95 % each: they are not adjusted for
the number of comparisons.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000  # Monte Carlo error of an end: about a hundredth of the interval's width
LIMIT_DRAWS = 20_000  # Monte Carlo error of `least_mean`: about a hundredth of its distance to the mean
CONFIDENCE = 0.95
POWER = 0.8
_SEED = 20260318
_BLOCK = 1_000_000  # draws at a time: 8 MB
_CACHED = 1000  # the draws for up to so many examples are kept: at most 32 MB each
_CACHED_WEIGHTS = 200  # likewise the weights, of which there are more: at most 32 MB each

Values = Sequence[float] | NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with the ends of its 95 % interval."""

    estimate: float
    low: float
    high: float


def over_seeds(cells: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each example's mean over the cells (one a seed), for the examples all have, ordered by name."""
    if not cells:
        return {}
    common = set(cells[0]).intersection(*cells[1:])
    return {item: math.fsum(cell[item] for cell in cells) / len(cells) for item in sorted(common)}


def mean_interval(values: Values, weights: Values | None = None) -> Interval:
    """sum(values) / sum(weights) over examples, resampled together; without weights the mean.

    With NLL sums in nats as `values` and token counts as `weights` it is nats a token over the whole set.
    Both of length N ≥ 1, weights > 0, in an order that does not depend on how they arrived; ValueError
    otherwise.
    """
    top = np.asarray(values, dtype=np.float64)  # (N,)
    bottom = np.ones_like(top) if weights is None else np.asarray(weights, dtype=np.float64)  # (N,)
    if top.ndim != 1 or top.shape != bottom.shape or not top.size or not (bottom > 0).all():
        raise ValueError("values and weights: one each for at least one example, weights positive")
    parts = [top[draw].sum(1) / bottom[draw].sum(1) for draw in _draws(top.size)]  # RESAMPLES in all
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(parts), [tail, 1 - tail])
    return Interval(float(top.sum() / bottom.sum()), float(low), float(high))


def least_mean(values: Values, lowest: float) -> float:
    """The lower one-sided 95 % limit of the mean of values that may be as low as `lowest`, seen or not.

    One more example is added, at `lowest`, and the mean is taken under random weights (the same exponential
    distribution each, divided by their sum); the limit is its 5 % quantile. Of N equal values it is the rule
    of three, of values that are right or wrong Clopper and Pearson's limit. Gaffke, "Three test statistics
    for a nonparametric one-sided hypothesis on the mean of a nonnegative variable", Mathematical Methods of
    Statistics 14 (2005); as a limit: Learned-Miller and Thomas, arXiv 1905.06208.
    """
    extended = np.append(np.asarray(values, dtype=np.float64), lowest)  # (N + 1,)
    means = [draw @ extended / draw.sum(1) for draw in _weights(extended.size)]  # LIMIT_DRAWS in all
    return float(np.quantile(np.concatenate(means), 1 - CONFIDENCE))


def spread(values: Values, weights: Values | None = None) -> float:
    """The standard deviation of one example's share in `mean_interval`'s ratio; 0 for a single example.

    For a ratio R = Σv/Σw the share is (v − R·w) / mean(w), its linearization (Cochran, "Sampling Techniques",
    §2.11).
    """
    top = np.asarray(values, dtype=np.float64)
    bottom = np.ones_like(top) if weights is None else np.asarray(weights, dtype=np.float64)
    if top.size < 2:
        return 0.0
    return float(np.std((top - top.sum() / bottom.sum() * bottom) / bottom.mean(), ddof=1))


def needed(sd: float, distance: float, hidden: float = 0.0) -> int | None:
    """How many examples would decide, roughly: two significant digits, rounded up; None where none would.

    The N at which z · sd / √N + hidden · 3 / N = distance, where z = z_(1−α/2) + z_power: the normal
    approximation for a mean of paired differences (Chow, Shao and Wang, "Sample Size Calculations in Clinical
    Research", §3.1), and the rule of three for what no example shows. `sd`: of one example's difference;
    `distance`: from the expected difference to the value that must be excluded; `hidden`: what an outcome
    that was never seen may cost. α = 5 % two-sided, power 80 %.
    """
    if distance <= 0 or (sd <= 0 and hidden <= 0):
        return None
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2) + NormalDist().inv_cdf(POWER)
    root = (z * sd + math.sqrt((z * sd) ** 2 + 12 * hidden * distance)) / (2 * distance)
    count = math.ceil(round(root**2, 6))
    step = 10 ** max(0, len(str(count)) - 2)
    return -(-count // step) * step


def undetected_share(examples: int) -> float:
    """The largest share of such examples that may still differ when none of `examples` did, 95 % confidence.

    3/N, the rule of three: Hanley and Lippman-Hand, "If nothing goes wrong, is everything all right?", JAMA
    249 (1983).
    """
    return min(1.0, 3 / examples) if examples else 1.0


def quantiles(values: Values, at: Sequence[float]) -> list[float]:
    """Quantiles with linear interpolation between order statistics. Raises ValueError for no values."""
    if not len(values):
        raise ValueError("quantiles of no values")
    return [float(value) for value in np.quantile(np.asarray(values, dtype=np.float64), list(at))]


def _draws(count: int) -> Iterable[NDArray[np.intp]]:
    return _cached_draws(count) if count <= _CACHED else _make_draws(count)


@lru_cache(maxsize=3)
def _cached_draws(count: int) -> list[NDArray[np.intp]]:
    return list(_make_draws(count))


def _make_draws(count: int) -> Iterator[NDArray[np.intp]]:
    """Which examples each resample takes: blocks (rows, count), RESAMPLES rows in all.

    Scaling 32 bits to `count` favours no example by more than count / 2³².
    """
    for raw in _raw(RESAMPLES, count):
        yield ((raw >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)).astype(np.intp)


def _weights(count: int) -> Iterable[NDArray[np.float64]]:
    return _cached_weights(count) if count <= _CACHED_WEIGHTS else _make_weights(count)


@lru_cache(maxsize=3)
def _cached_weights(count: int) -> list[NDArray[np.float64]]:
    return list(_make_weights(count))


def _make_weights(count: int) -> Iterator[NDArray[np.float64]]:
    """Exponentially distributed weights of `count` examples: blocks (rows, count), LIMIT_DRAWS rows in all."""
    for raw in _raw(LIMIT_DRAWS, count):
        yield -np.log(((raw >> np.uint64(11)) + np.uint64(1)) * 2.0**-53)


def _raw(draws: int, count: int) -> Iterator[NDArray[np.uint64]]:
    """Random 64-bit numbers: blocks (rows, count), `draws` rows in all.

    The bit generator's raw stream is the only part of numpy's random numbers that is promised never to change
    between versions.
    """
    bits = np.random.PCG64(_SEED)
    rows = max(1, _BLOCK // count)
    for start in range(0, draws, rows):
        yield bits.random_raw((min(rows, draws - start), count))
