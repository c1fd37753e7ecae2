"""Scenarios split into those that directions are fitted on and those that they are tested on."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from trait_core.errors import InvalidRequestError

MIN_SIDE = 2
"""Least number of scenarios on each side of the split: a single one has no spread."""


@dataclass(frozen=True)
class Split:
    """Scenarios to fit on and scenarios to test on; both replies of a scenario are on the same side.

    Args:
        train: Indices of scenarios, ascending.
        held_out: Indices of scenarios, ascending; disjoint from `train`.
        seed: Seed of the split, and of random methods that are fitted on it.
    """

    train: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]
    seed: int = 0


def split_scenarios(n: int, held_out: float, seed: int) -> Split:
    """Hold out a seeded random part of n scenarios.

    Args:
        n: Number of scenarios.
        held_out: Part of them that no direction is fitted on, above 0 and below 1.
        seed: The same seed gives the same split.

    Returns:
        The split; `round(n * held_out)` scenarios are held out, at least 2.

    Raises:
        InvalidRequestError: Fewer than 2 scenarios would be left on one side.
    """
    n_held_out = max(MIN_SIDE, round(n * held_out)) if 0 < held_out < 1 else 0
    if n_held_out == 0 or n - n_held_out < MIN_SIDE:
        raise InvalidRequestError(
            f"held-out {held_out:g} of {n} scenarios leaves fewer than {MIN_SIDE} to fit on or to test on: use a part "
            "between 0 and 1 (default 0.25), or write more scenarios",
            param="held_out",
        )
    order = np.random.default_rng(seed).permutation(n)
    return Split(np.sort(order[n_held_out:]), np.sort(order[:n_held_out]), seed)
