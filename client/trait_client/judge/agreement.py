"""Agreement of a judge with labels: rank correlation, and the AUC of high against low labels, with intervals.

- *Spearman's rho*: Pearson's correlation of average ranks. 1 is the same order, 0 none, -1 the reverse.
- *AUC*: P(a reply labelled above 50 scores higher than one labelled below), where ties count half. 0.5 is chance.

Intervals are 95 per cent percentile bootstrap over replies (Efron & Tibshirani 1993, chapter 13), 2000 replicates, seeded;
for the AUC within the two classes, so that neither is ever empty. They hold for these labels, not for others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trait_core.statistics import Floats, Interval, auc, percentile_interval, spearman, wins

REPLICATES = 2000
CHANCE = 0.5


@dataclass(frozen=True)
class Agreement:
    """Agreement with the labels of one trait.

    Attributes:
        n: Labelled replies with a score of the judge.
        n_high: Replies labelled above 50.
        n_low: Replies labelled below 50.
        spearman: None if labels or scores are all the same, or fewer than three.
        spearman_interval: None if `spearman` is.
        auc: None if one of the two classes is empty.
        auc_interval: None if one of them has fewer than two replies.
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
        """One phrase for the interval of the AUC."""
        if self.auc_interval is None:
            return "too few labels"
        low, high = self.auc_interval
        if low <= CHANCE <= high:
            return "not distinguishable from chance"
        return "better than chance" if low > CHANCE else "worse than chance"


def agreement(labels: Sequence[float], scores: Sequence[float], seed: int = 0) -> Agreement:
    """Compare scores with labels, entry by entry."""
    given, judged = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    high, low = judged[given > 50], judged[given < 50]
    return Agreement(
        n=len(given),
        n_high=len(high),
        n_low=len(low),
        spearman=spearman(given, judged),
        spearman_interval=_spearman_interval(given, judged, np.random.default_rng([seed, 0])),
        auc=auc(high, low) if len(high) and len(low) else None,
        auc_interval=_auc_interval(high, low, np.random.default_rng([seed, 1])),
    )


def _spearman_interval(a: Floats, b: Floats, generator: np.random.Generator) -> Interval | None:
    if spearman(a, b) is None:
        return None
    picks = generator.integers(len(a), size=(REPLICATES, len(a)))
    # A sample in which all are the same has no order: it is evidence of none.
    return percentile_interval([spearman(a[pick], b[pick]) or 0.0 for pick in picks])


def _auc_interval(high: Floats, low: Floats, generator: np.random.Generator) -> Interval | None:
    if min(len(high), len(low)) < 2:
        return None
    highs = generator.multinomial(len(high), np.full(len(high), 1 / len(high)), size=REPLICATES)
    lows = generator.multinomial(len(low), np.full(len(low), 1 / len(low)), size=REPLICATES)
    return percentile_interval(((highs @ wins(high, low)) * lows).sum(axis=1) / (len(high) * len(low)))
