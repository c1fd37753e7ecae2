import math

import numpy as np
import pytest
from trait_core.errors import InvalidRequestError
from trait_core.statistics import (
    auc,
    average_ranks,
    bootstrap_interval,
    cohens_d,
    is_effect,
    paired_delta,
    paired_shift,
    standardised_means,
    wins,
)


def test_deltas_are_paired_by_prompt():
    result = paired_delta({"a": 10, "b": 30, "c": 99}, {"b": 10, "a": 0, "d": 5})
    assert (result.n, result.baseline, result.steered, result.delta) == (2, 5, 20, 15)
    assert result.sd == pytest.approx(math.sqrt(50))


def test_nothing_to_pair_is_an_error():
    with pytest.raises(InvalidRequestError, match="none in common"):
        paired_delta({"a": 1}, {"b": 1})


def test_one_prompt_has_no_interval_and_no_sd():
    result = paired_delta({"a": 3}, {"a": 1})
    assert (result.delta, result.sd, result.interval) == (2, None, None)


def test_the_interval_of_equal_values_is_the_value():
    assert bootstrap_interval([4.0] * 5) == (4.0, 4.0)


def test_the_interval_is_the_same_each_time():
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_interval(values) == bootstrap_interval(values.copy())


def test_the_interval_approaches_the_normal_one():
    values = np.random.default_rng(1).normal(5, 2, size=400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)


def test_a_shift_has_the_mean_over_its_spread_and_both_intervals():
    values = np.random.default_rng(3).normal(1.0, 2.0, size=60)
    found = paired_shift(values)
    assert (found.n, found.mean) == (60, pytest.approx(values.mean()))
    assert found.interval == bootstrap_interval(values)
    assert found.dz == pytest.approx(values.mean() / values.std(ddof=1))
    assert found.dz_interval[0] < found.dz < found.dz_interval[1]


@pytest.mark.parametrize("values", [[0.0] * 4, [0.1] * 7, [3.0]])
def test_equal_differences_have_no_standardised_mean(values):
    """Nor does rounding give them one: seven times 0.1 has a tiny spread in floating point."""
    found = paired_shift(values)
    assert (found.mean, found.dz, found.dz_interval) == (pytest.approx(values[0]), None, None)
    assert np.isnan(standardised_means(np.array(values)[:, None])).all()


def test_no_differences_are_an_error():
    with pytest.raises(InvalidRequestError, match="at least one pair"):
        paired_shift([])


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(size=30))
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.98


def test_every_position_is_drawn_about_equally_often():
    for n in (2, 7, 12, 28):
        shares = [sum(bootstrap_interval(np.eye(n)[i])) for i in range(n)]
        assert max(shares) < 2 * 1.96 * 2 / n + 4 / n


@pytest.mark.parametrize(
    ("delta", "interval", "control", "expected"),
    [
        (20, (10, 30), [-5, 5], True),
        (-20, (-30, -10), [-5, 5], True),
        (4, (1, 7), [-5, 5], False),  # inside the control's range
        (20, (-1, 41), [-5, 5], False),  # the interval holds 0
        (2, (1, 3), [5, 10], False),  # outside the range, on the side of less
        (20, (10, 30), [], None),
        (20, None, [0], None),
    ],
)
def test_an_effect_leaves_the_control_and_excludes_0(delta, interval, control, expected):
    assert is_effect(delta, interval, control) is expected


def test_cohens_d_has_the_pooled_deviation():
    assert cohens_d([2, 4], [0, 2]) == pytest.approx(2 / math.sqrt(2))
    assert cohens_d([1, 2, 3, 4], [0, 2]) == pytest.approx(1.5 / math.sqrt((5 + 2) / 4))


def test_cohens_d_without_spread_is_undefined():
    assert cohens_d([1, 1], [0, 0]) is None
    assert cohens_d([1], [0, 0]) is None


def test_auc_from_ranks_has_the_bits_of_counting_all_pairs():
    draw = np.random.default_rng(0)
    for n, m in draw.integers(1, 40, (200, 2)):
        high, low = draw.integers(0, 20, n) / 3, draw.integers(0, 20, m) / 3
        gaps = high[:, None] - low[None, :]
        assert auc(high, low) == (gaps > 0).mean() + (gaps == 0).mean() / 2
        assert auc(high, low) == pytest.approx(wins(high, low).mean())


def test_equal_values_share_the_mean_of_their_ranks():
    assert average_ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
