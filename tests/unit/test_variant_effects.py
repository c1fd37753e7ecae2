"""The verdict on a direction: beyond zero, beyond rounding, and beyond random directions."""

import numpy as np
import pytest
from trait_client.variants.effects import effect, random_directions

D = 64
NORM = 10.0


def made(shift, spread, noise, n=40, seed=0):
    """A variant that moves n texts by `shift` along the first axis, with `spread`, and by noise along all axes."""
    generator = np.random.default_rng(seed)
    change = noise * generator.standard_normal((n, D))
    change[:, 0] += shift + spread * generator.standard_normal(n)
    base = generator.standard_normal(n)
    return base, base + change[:, 0], change, random_directions(D, 3)


def test_a_planted_direction_is_found():
    found = effect(*made(shift=1.0, spread=0.2, noise=0.2), NORM)
    assert found.verdict == "found"
    assert found.shift.mean == pytest.approx(found.variant - found.base)
    assert found.shift.interval[0] > 0.8
    assert found.shift.dz > found.random_dz > 0
    assert found.beyond > 0.95


def test_a_change_along_every_direction_is_not_a_finding():
    """The interval excludes 0, but random directions move as much."""
    base, _, change, directions = made(shift=0.0, spread=0.0, noise=0.02)
    change += np.random.default_rng(1).standard_normal(D)
    found = effect(base, base + change[:, 0], change, directions, NORM)
    low, high = found.shift.interval
    assert low * high > 0
    assert found.verdict == "not beyond random"


@pytest.mark.parametrize("shift", [0.0, 0.009])
def test_rounding_is_no_difference(shift):
    """A mean difference of a thousandth of the residual norm is below the tolerance, however narrow its interval."""
    assert effect(*made(shift=shift, spread=1e-5, noise=1e-6), NORM).verdict == "no difference"


def test_two_equal_models_differ_in_nothing():
    base = np.arange(10.0)
    found = effect(base, base, np.zeros((10, D)), random_directions(D, 3), NORM)
    assert (found.verdict, found.shift.mean, found.shift.dz, found.random_dz) == ("no difference", 0.0, None, None)


def test_few_prompts_have_no_verdict():
    assert effect(*made(shift=1.0, spread=0.2, noise=0.0, n=4), NORM).verdict == "too few prompts"


def test_random_directions_are_unit_vectors_and_the_same_on_every_run():
    first, again, other = random_directions(D, 3), random_directions(D, 3), random_directions(D, 4)
    np.testing.assert_allclose(np.linalg.norm(first, axis=0), 1.0)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
