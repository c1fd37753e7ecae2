"""Intervals of held-out accuracy, AUC and Cohen's d, over other splits, seeds and scenarios."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from trait_core.statistics import Interval, percentile_interval, wins

REPLICATES = 200
"""Bootstrap samples of each split's held-out scenarios."""


@dataclass(frozen=True)
class HeldOut:
    """Projections of one split's held-out scenarios on the direction that was fitted on the others.

    Args:
        positive: `(n,)` float64, residual units.
        negative: `(n,)` float64, residual units; entry i is paired with `positive[i]`.
        centre: Midpoint of the training means, the threshold of the accuracy.
    """

    positive: npt.NDArray[np.float64]
    negative: npt.NDArray[np.float64]
    centre: float


@dataclass(frozen=True)
class HeldOutIntervals:
    """95 per cent intervals, `(low, high)` each.

    Args:
        accuracy: Accuracy with the threshold at the centre.
        auc: Area under the ROC curve.
        cohens_d: Cohen's d; None if most samples have no spread.
    """

    accuracy: Interval
    auc: Interval
    cohens_d: Interval | None


def held_out_intervals(splits: Sequence[HeldOut], generator: np.random.Generator) -> HeldOutIntervals:
    """95 per cent percentile bootstrap, pooled over splits (Efron and Tibshirani 1993, chapter 13).

    For each split, whole held-out scenarios are drawn with replacement 200 times. Splits share scenarios, so the interval
    is about this dataset, not about one that somebody else would write. A sample repeats scenarios and so varies less
    than they do: the interval of Cohen's d is biased upwards if few scenarios are held out.

    Args:
        splits: At least one; directions are fitted separately for each, with its own seed.
        generator: Draws the samples.
    """
    accuracies, aucs, effects = [], [], []
    for split in splits:
        n = len(split.positive)
        correct = ((split.positive > split.centre) + (split.negative <= split.centre).astype(np.float64)) / 2
        counts = generator.multinomial(n, np.full(n, 1 / n), size=REPLICATES).astype(np.float64)
        accuracies.append(counts @ correct / n)
        aucs.append(((counts @ wins(split.positive, split.negative)) * counts).sum(axis=1) / n**2)
        effects.append(_effects(split, counts))
    effect = np.concatenate(effects)
    known = effect[np.isfinite(effect)]
    return HeldOutIntervals(
        percentile_interval(np.concatenate(accuracies)),
        percentile_interval(np.concatenate(aucs)),
        percentile_interval(known) if len(known) * 2 > len(effect) else None,
    )


def _effects(split: HeldOut, counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cohen's d of each sample; NaN where it has no spread."""
    n, middle = len(split.positive), (split.positive.mean() + split.negative.mean()) / 2
    sides = split.positive - middle, split.negative - middle
    means = [counts @ x / n for x in sides]
    pooled = sum((counts @ x**2 - n * m**2) / (n - 1) for x, m in zip(sides, means, strict=True)) / 2
    scale = max(float((x**2).max()) for x in sides)
    spread = np.sqrt(np.where(pooled > 1e-12 * scale, pooled, np.nan))
    effects: npt.NDArray[np.float64] = (means[0] - means[1]) / spread
    return effects
