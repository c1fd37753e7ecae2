"""The comparison of a trait's damage with that of random directions."""

import math

import pytest
from damage_beside_effect.study import ratios


def setting(trait, kl, random_kl, coefficient=1.0):
    return {
        "trait": trait,
        "coefficient": coefficient,
        "kl": kl,
        "random_kl": random_kl,
        "random_kl_high": 1.5 * random_kl,
    }


def test_the_ratio_is_the_geometric_mean_over_traits():
    found, higher = ratios(
        [setting("a", 0.2, 0.1), setting("b", 0.8, 0.1), setting("a", 0.1, 0.1, 2.0), setting("b", 0.1, 0.1, 2.0)]
    )
    assert found["ratio"] == pytest.approx(math.sqrt(2 * 8))
    assert (found["traits"], found["beyond_all_random"]) == (2, 2)
    assert (found["low"], found["high"]) == (pytest.approx(2), pytest.approx(8))
    assert (found["mean_kl"], found["mean_random_kl"]) == (pytest.approx(0.5), pytest.approx(0.1))
    assert (higher["ratio"], higher["beyond_all_random"]) == (pytest.approx(1), 0)
