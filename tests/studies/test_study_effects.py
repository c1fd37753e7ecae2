"""Effect sizes of the studies: classes, strata, clusters, random directions."""

import numpy as np
import pytest
from study.effects import cluster_interval, random_aucs, separation, shift
from trait_core.statistics import auc, cohens_d

GENERATOR = np.random.default_rng(7)


def test_without_strata_d_and_auc_are_the_plain_ones():
    inside, outside = GENERATOR.normal(1, 1, 40), GENERATOR.normal(0, 1, 60)
    found = separation([*inside, *outside], [True] * 40 + [False] * 60, range(100))
    assert (found.n_in, found.n_out) == (40, 60)
    assert found.d == pytest.approx(cohens_d(inside, outside))
    assert found.auc == pytest.approx((inside[:, None] > outside).mean())
    assert found.d_interval[0] < found.d < found.d_interval[1]
    assert found.auc_interval[0] < found.auc < found.auc_interval[1]


def test_what_only_tells_strata_apart_tells_nothing_within_them():
    """A wrapper that is refused often and projects high makes a difference between all prompts, and none within."""
    n = 400
    strata = GENERATOR.integers(0, 2, n)
    refused = GENERATOR.random(n) < np.where(strata == 1, 0.8, 0.2)
    scores = 5.0 * strata + GENERATOR.normal(size=n)
    assert separation(scores, refused, range(n)).auc > 0.7
    within = separation(scores, refused, range(n), strata)
    assert within.auc == pytest.approx(0.5, abs=0.08)
    assert within.d == pytest.approx(0, abs=0.3)


def test_a_stratum_of_one_class_compares_nothing():
    found = separation([0, 1, 9, 9], [False, True, True, True], range(4), ["a", "a", "b", "b"])
    assert found.auc == 1.0
    assert np.isnan(separation([0, 1], [True, True], range(2)).auc)


def test_ties_count_half():
    assert auc(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0.5
    assert auc(np.array([1.0]), np.array([1.0, 0.0])) == 0.75


def test_clusters_are_drawn_as_wholes():
    """Ten copies of each of five values are no more evidence than the five values."""
    values = np.repeat([0.0, 1.0, 2.0, 3.0, 4.0], 10)
    clusters = np.repeat(np.arange(5), 10)
    low, high = cluster_interval(lambda rows: values[rows].mean(), clusters)
    narrow_low, narrow_high = cluster_interval(lambda rows: values[rows].mean(), range(50))
    assert high - low > 2 * (narrow_high - narrow_low)


def test_a_shift_is_the_mean_difference_and_its_standardised_size():
    differences = GENERATOR.normal(2.0, 1.0, 200)
    moved = shift(differences)
    assert moved.mean == pytest.approx(differences.mean())
    assert moved.dz == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert moved.interval[0] > 1.5
    assert moved.dz_interval[0] > 1.5
    centred = shift(differences - differences.mean())
    assert centred.interval[0] < 0 < centred.interval[1]


def test_random_directions_see_what_any_direction_sees():
    """Around chance where the classes are alike, far from it where they lie apart along most dimensions."""
    noise = GENERATOR.normal(size=(60, 30)).astype(np.float32)
    inside = [True] * 30 + [False] * 30
    alike = random_aucs(noise, inside)
    assert 0.4 < np.median(alike) < 0.6
    assert alike[0] < alike[-1]
    apart = random_aucs(noise + 2 * np.array(inside, np.float32)[:, None], inside)
    assert np.quantile(apart, 0.975) - np.quantile(apart, 0.025) > np.quantile(alike, 0.975) - np.quantile(alike, 0.025)
