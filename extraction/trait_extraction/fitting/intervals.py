"""Intervals of held-out accuracy, AUC and Cohen's d, over other splits, seeds and scenarios."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from trait_core.statistics import Interval, percentile_interval, wins

Counts = npt.NDArray[np.float64]
"""`(REPLICATES, n)`: how often each sample holds each scenario."""

REPLICATES = 200
"""Bootstrap samples of each split's held-out scenarios."""


@dataclass(frozen=True)
class HeldOut:
    """Projections of one split's held-out scenarios on the direction that was fitted on the others.

    Args:
        positive: `(n,)` float64, residual units.
        negative: `(m,)` float64, residual units; entry i is paired with `positive[i]` where the sides are paired.
        centre: Midpoint of the training means, the threshold of the accuracy.
        paired: True if the sides are pairs, which are drawn as a whole; else each side is drawn by itself.
    """

    positive: npt.NDArray[np.float64]
    negative: npt.NDArray[np.float64]
    centre: float
    paired: bool = True


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

    For each split, held-out pairs are drawn with replacement 200 times; scenarios of each side if they are not paired. Splits share scenarios, so the interval
    is about this dataset, not about one that somebody else would write. A sample repeats scenarios and so varies less
    than they do: the interval of Cohen's d is biased upwards if few scenarios are held out.

    Args:
        splits: At least one; directions are fitted separately for each, with its own seed.
        generator: Draws the samples.
    """
    accuracies, aucs, effects = [], [], []
    for split in splits:
        n, m = len(split.positive), len(split.negative)
        first = _drawn(n, generator)
        second = first if split.paired else _drawn(m, generator)
        correct = first @ (split.positive > split.centre) / n + second @ (split.negative <= split.centre) / m
        accuracies.append(correct / 2)
        aucs.append(((first @ wins(split.positive, split.negative)) * second).sum(axis=1) / (n * m))
        effects.append(_effects(split, (first, second)))
    effect = np.concatenate(effects)
    known = effect[np.isfinite(effect)]
    return HeldOutIntervals(
        percentile_interval(np.concatenate(accuracies)),
        percentile_interval(np.concatenate(aucs)),
        percentile_interval(known) if len(known) * 2 > len(effect) else None,
    )


def _drawn(n: int, generator: np.random.Generator) -> Counts:
    """How often each of n scenarios is in each sample."""
    return generator.multinomial(n, np.full(n, 1 / n), size=REPLICATES).astype(np.float64)


def _effects(split: HeldOut, counts: tuple[Counts, Counts]) -> npt.NDArray[np.float64]:
    """Cohen's d of each sample; NaN where it has no spread."""
    middle = (split.positive.mean() + split.negative.mean()) / 2
    sides = split.positive - middle, split.negative - middle
    means = [drawn @ x / len(x) for drawn, x in zip(counts, sides, strict=True)]
    squares = [drawn @ x**2 - len(x) * m**2 for drawn, x, m in zip(counts, sides, means, strict=True)]
    pooled = (squares[0] + squares[1]) / (len(sides[0]) + len(sides[1]) - 2)
    scale = max(float((x**2).max()) for x in sides)
    spread = np.sqrt(np.where(pooled > 1e-12 * scale, pooled, np.nan))
    effects: npt.NDArray[np.float64] = (means[0] - means[1]) / spread
    return effects
