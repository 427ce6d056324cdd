"""Intervals, quantiles and sample sizes against closed forms, by-hand cases and simulation."""

import math

import numpy as np
import pytest

from jsm_queue import stats


def test_equal_inputs_give_equal_bits_and_the_draws_never_change():
    values = [0.0, 1.5, 3.0, 3.0, 0.75, 2.25]
    first = stats.mean_interval(values)
    stats._cached_draws.cache_clear()
    assert stats.mean_interval(values) == first
    # The first draws, written down: with others the same records would give other verdict bytes.
    assert next(iter(stats._make_draws(24)))[0, :8].tolist() == FIRST_DRAWS


FIRST_DRAWS = [23, 14, 21, 20, 16, 21, 14, 11]


def test_interval_of_a_mean_is_close_to_the_normal_one():
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    estimate, low, high = stats.mean_interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert estimate == pytest.approx(values.mean())
    assert low == pytest.approx(values.mean() - half, abs=0.01)
    assert high == pytest.approx(values.mean() + half, abs=0.01)


def test_interval_covers_the_true_mean_about_as_often_as_the_docstring_says():
    rng = np.random.default_rng(3)
    scores = np.array([0.0, 1.0, 1.5, 3.0])
    intervals = [stats.mean_interval(rng.choice(scores, 24)) for _ in range(400)]
    covered = np.mean([low <= scores.mean() <= high for _, low, high in intervals])
    assert 0.89 <= covered <= 0.96


def test_weights_make_it_a_ratio_of_sums():
    nll, tokens = [2.0, 30.0, 4.0], [1.0, 10.0, 4.0]
    assert stats.mean_interval(nll, tokens).estimate == pytest.approx(36 / 15)
    # Every example at the same nats a token: whatever is drawn, the ratio stays.
    assert stats.mean_interval([2.0, 20.0, 8.0], tokens) == pytest.approx((2.0, 2.0, 2.0))


def test_pairing_removes_what_the_two_sides_share():
    rng = np.random.default_rng(1)
    difficulty = rng.normal(0, 5, 100)
    second = difficulty + rng.normal(0, 0.1, 100)
    paired = stats.mean_interval(difficulty + 0.2 - second)
    assert paired.low > 0.1
    assert stats.mean_interval(difficulty).high - stats.mean_interval(difficulty).low > 1


def test_draws_cover_all_examples_evenly():
    for count in (1, 7, 1500):
        blocks = list(stats._make_draws(count))
        assert sum(len(block) for block in blocks) == stats.RESAMPLES
        taken = np.bincount(np.concatenate([block.ravel() for block in blocks]), minlength=count)
        expected = stats.RESAMPLES
        assert taken.shape == (count,)
        assert np.abs(taken - expected).max() <= 6 * math.sqrt(expected)


@pytest.mark.parametrize(("values", "weights"), [([], None), ([1.0], []), ([1.0, 2.0], [1.0, 0.0]), ([1.0], [-1.0])])
def test_nothing_to_average_is_refused(values, weights):
    with pytest.raises(ValueError):
        stats.mean_interval(values, weights)


def test_over_seeds_averages_each_common_example():
    assert stats.over_seeds([{"b": 1.0, "a": 0.0, "x": 9.0}, {"a": 3.0, "b": 2.0}]) == {"a": 1.5, "b": 1.5}
    assert list(stats.over_seeds([{"b": 1.0, "a": 0.0}])) == ["a", "b"]
    assert stats.over_seeds([]) == {}


def test_spread_of_a_mean_is_the_standard_deviation_and_of_a_constant_ratio_zero():
    values = [1.0, 2.0, 4.0, 5.0]
    assert stats.spread(values) == pytest.approx(np.std(values, ddof=1))
    assert stats.spread([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx(0)
    assert stats.spread([1.0]) == 0


def test_needed_is_the_textbook_number():
    # (1.96 + 0.84)² · 1² / 0.5² = 31.4 → 32 examples.
    assert stats.needed(1.0, 0.5) == 32
    assert stats.needed(1.0, 0.05) == 3200
    assert stats.needed(1.0, 0.0) is None
    assert stats.needed(0.0, 0.5) is None


def test_so_many_examples_do_decide_four_times_in_five():
    rng = np.random.default_rng(5)
    count = stats.needed(1.0, 0.3)
    assert count is not None
    decided = [stats.mean_interval(rng.normal(0.3, 1.0, count)).low > 0 for _ in range(300)]
    assert 0.72 <= np.mean(decided) <= 0.88


def test_needed_leaves_room_for_what_no_example_shows():
    # Nothing varies: 3 / N · 3 = 0.15, the rule of three.
    assert stats.needed(0.0, 0.15, hidden=3.0) == 60
    assert stats.needed(1.0, 0.15, hidden=3.0) > stats.needed(1.0, 0.15)  # type: ignore[operator]
    assert stats.needed(1.0, 0.0, hidden=3.0) is None


class TestLeastMean:
    def test_of_equal_values_it_is_the_rule_of_three(self):
        for count in (5, 32, 60, 200):
            exact = 1 - 0.05 ** (1 / count)
            assert stats.least_mean([0.0] * count, -3.0) == pytest.approx(-3 * exact, rel=0.02)

    def test_of_right_and_wrong_it_is_clopper_and_pearsons(self):
        # P(Binomial(20, 0.2173) >= 8) = 0.05
        assert stats.least_mean([1.0] * 8 + [0.0] * 12, 0.0) == pytest.approx(0.2171, abs=0.004)

    def test_a_loss_lowers_it_and_a_gain_raises_it(self):
        same = [0.0] * 60
        least = [stats.least_mean([change, *same[1:]], -3.0) for change in (-3.0, -1.5, 0.0, 1.5)]
        assert least == sorted(least) and len(set(least)) == 4

    def test_it_lies_below_the_mean_95_times_in_100_or_more(self):
        """Losses that are rare and large, which a bootstrap of 40 mostly does not see."""
        rng = np.random.default_rng(7)
        mean = 0.03 * -3.0
        samples = [rng.choice([0.0, -3.0], 40, p=[0.97, 0.03]) for _ in range(120)]
        assert np.mean([stats.least_mean(sample, -3.0) <= mean for sample in samples]) >= 0.95
        assert np.mean([stats.mean_interval(sample).low <= mean for sample in samples]) < 0.8


def test_rule_of_three():
    assert stats.undetected_share(24) == 0.125
    assert stats.undetected_share(2) == 1.0
    assert stats.undetected_share(0) == 1.0


def test_quantiles():
    assert stats.quantiles([4.0, 1.0, 3.0, 2.0], [0.0, 0.5, 1.0]) == [1.0, 2.5, 4.0]
    with pytest.raises(ValueError):
        stats.quantiles([], [0.5])
