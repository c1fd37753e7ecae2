"""Evidence for a direction: its scale over the training scenarios, its discrimination over held-out ones."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from trait_core.errors import InvalidRequestError
from trait_core.schema import LayerEvidence
from trait_core.statistics import auc, cohens_d

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


def layer_evidence(
    direction: npt.NDArray[np.float32],
    positive: npt.NDArray[np.float32],
    negative: npt.NDArray[np.float32],
    split: Split,
    residual_norm: float,
) -> LayerEvidence:
    """Measure a direction on one layer.

    `separation = mean(h+ . d) - mean(h- . d)` and `centre = (mean(h+ . d) + mean(h- . d)) / 2` over training
    scenarios. Over held-out ones: accuracy with the centre as threshold, AUC, Cohen's d, and polarity, the part of the
    pairs whose positive projects above its negative.

    Args:
        direction: `(d_model,)` float32, unit length.
        positive: `(n, d_model)` float32, residual units; all scenarios.
        negative: `(n, d_model)` float32, residual units; all scenarios.
        split: The scenarios that the direction was fitted on, and those held out.
        residual_norm: Mean token norm of the layer, residual units.

    Returns:
        The layer's entry of a vector file.
    """
    wide = direction.astype(np.float64)
    projected = positive.astype(np.float64) @ wide, negative.astype(np.float64) @ wide
    train_positive, train_negative = (side[split.train] for side in projected)
    test_positive, test_negative = (side[split.held_out] for side in projected)
    separation = float(train_positive.mean() - train_negative.mean())
    centre = float(train_positive.mean() + train_negative.mean()) / 2
    return LayerEvidence(
        separation=separation,
        centre=centre,
        residual_norm=residual_norm,
        accuracy=float(((test_positive > centre).mean() + (test_negative <= centre).mean()) / 2),
        auc=auc(test_positive, test_negative),
        cohens_d=cohens_d(test_positive, test_negative),
        polarity=float((test_positive > test_negative).mean() + (test_positive == test_negative).mean() / 2),
    )
