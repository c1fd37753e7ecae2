"""How far a judge agrees with labels: rank correlation, and how well it tells high from low, with intervals.

- *Spearman's rho*: Pearson's correlation of average ranks. 1 the same order, 0 none, -1 the reverse.
- *AUC*: P(a reply labelled above 50 scores higher than one labelled below), ties count half. 0.5 is chance.

Intervals are 95 per cent percentile bootstrap over replies (Efron & Tibshirani 1993, chapter 13), 2000 replicates, seeded;
for the AUC within the two classes, so that both are always there. They are of these labels, not of others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

REPLICATES = 2000
LEVEL = 0.95
CHANCE = 0.5

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Agreement:
    """Of one trait.

    Attributes:
        n: Labelled replies that the judge gave a score for.
        n_high: Labelled above 50.
        n_low: Labelled below 50.
        spearman: None where labels or scores are all the same, or fewer than three.
        spearman_interval: None likewise.
        auc: None where one of the two classes is empty.
        auc_interval: None where one of them has fewer than two.
    """

    n: int
    n_high: int
    n_low: int
    spearman: float | None
    spearman_interval: Interval | None
    auc: float | None
    auc_interval: Interval | None

    @property
    def verdict(self) -> str:
        """What the AUC's interval allows to say."""
        if self.auc_interval is None:
            return "too few labels"
        low, high = self.auc_interval
        if low <= CHANCE <= high:
            return "not distinguishable from chance"
        return "better than chance" if low > CHANCE else "worse than chance"


def agreement(labels: Sequence[float], scores: Sequence[float], seed: int = 0) -> Agreement:
    """Agreement of scores with labels, entry by entry."""
    given, judged = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    high, low = judged[given > 50], judged[given < 50]
    return Agreement(
        n=len(given),
        n_high=len(high),
        n_low=len(low),
        spearman=spearman(given, judged),
        spearman_interval=_spearman_interval(given, judged, np.random.default_rng([seed, 0])),
        auc=auc(high, low),
        auc_interval=_auc_interval(high, low, np.random.default_rng([seed, 1])),
    )


def spearman(a: Floats, b: Floats) -> float | None:
    """Spearman's rank correlation with average ranks for ties; None where it is not defined."""
    if len(a) < 3:
        return None
    first, second = _ranks(a), _ranks(b)
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / norm if norm > 0 else None


def auc(high: Floats, low: Floats) -> float | None:
    """P(high > low) + P(equal) / 2; None where one is empty."""
    if not (len(high) and len(low)):
        return None
    gaps = high[:, None] - low[None, :]
    return float(((gaps > 0) + (gaps == 0) / 2).mean())


def _spearman_interval(a: Floats, b: Floats, generator: np.random.Generator) -> Interval | None:
    if spearman(a, b) is None:
        return None
    picks = generator.integers(len(a), size=(REPLICATES, len(a)))
    # A sample in which all are the same has no order: it is evidence of none.
    return _interval([spearman(a[pick], b[pick]) or 0.0 for pick in picks])


def _auc_interval(high: Floats, low: Floats, generator: np.random.Generator) -> Interval | None:
    if min(len(high), len(low)) < 2:
        return None
    gaps = high[:, None] - low[None, :]
    wins = (gaps > 0) + (gaps == 0) / 2
    highs = generator.multinomial(len(high), np.full(len(high), 1 / len(high)), size=REPLICATES)
    lows = generator.multinomial(len(low), np.full(len(low), 1 / len(low)), size=REPLICATES)
    return _interval(((highs @ wins) * lows).sum(axis=1) / (len(high) * len(low)))


def _interval(samples: Sequence[float] | Floats) -> Interval:
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _ranks(values: Floats) -> Floats:
    """Average ranks, from 0."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[place]
