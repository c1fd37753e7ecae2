"""The distance between two classes and the shift of one text, with intervals that resample whole groups.

Intervals are 95 per cent percentile bootstrap (Efron & Tibshirani 1993, chapter 13), 1000 replicates, seeded. Whole *clusters*
are drawn (a request with all its wrappers, a prompt with all its replies): rows of one cluster are not independent.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from trait_core.statistics import Floats, Interval, auc, percentile_interval

REPLICATES = 1000

Z95 = 1.959964
"""The normal distribution has 95 per cent of its mass within this many standard deviations."""

Statistic = Callable[[npt.NDArray[np.int64]], float]
"""Statistic of the rows with these indices; NaN where it is not defined."""


@dataclass(frozen=True)
class Separation:
    """How well scores separate a class from the others.

    Attributes:
        n_in: Rows of the class.
        n_out: Rows of the others.
        d: Cohen's d, pooled standard deviation; within strata, where there are some.
        auc: P(a row of the class scores higher than another), ties half; pairs of one stratum only, where there are some.
    """

    n_in: int
    n_out: int
    d: float
    d_interval: Interval
    auc: float
    auc_interval: Interval

    def row(self) -> dict[str, float | int]:
        """Convert to columns of a table."""
        return {
            "n_in": self.n_in, "n_out": self.n_out,
            "d": self.d, "d_low": self.d_interval[0], "d_high": self.d_interval[1],
            "auc": self.auc, "auc_low": self.auc_interval[0], "auc_high": self.auc_interval[1],
        }  # fmt: skip


@dataclass(frozen=True)
class Shift:
    """Paired differences: how much one text moved.

    Attributes:
        dz: Mean over standard deviation of the differences (Cohen's d_z).
    """

    n: int
    mean: float
    interval: Interval
    dz: float
    dz_interval: Interval


def separation(
    scores: Sequence[float] | Floats,
    in_class: Sequence[bool] | npt.NDArray[np.bool_],
    clusters: Sequence[Hashable],
    strata: Sequence[Hashable] | None = None,
) -> Separation:
    """Cohen's d and AUC of a class against the others, with intervals over clusters.

    Args:
        scores: `(n,)`.
        in_class: `(n,)`.
        clusters: `(n,)`; drawn as wholes.
        strata: `(n,)`; rows are compared within a stratum only. None: all with all.
    """
    values, inside = np.asarray(scores, np.float64), np.asarray(in_class, bool)
    groups = _codes(strata) if strata is not None else np.zeros(len(values), np.int64)

    def d(rows: npt.NDArray[np.int64]) -> float:
        return _within_d(values[rows], inside[rows], groups[rows])

    def area(rows: npt.NDArray[np.int64]) -> float:
        return _within_auc(values[rows], inside[rows], groups[rows])

    everything = np.arange(len(values))
    return Separation(
        n_in=int(inside.sum()),
        n_out=int((~inside).sum()),
        d=d(everything),
        d_interval=cluster_interval(d, clusters),
        auc=area(everything),
        auc_interval=cluster_interval(area, clusters),
    )


def shift(differences: Sequence[float] | Floats, clusters: Sequence[Hashable] | None = None) -> Shift:
    """Mean and d_z of paired differences."""
    values = np.asarray(differences, np.float64)
    own = list(range(len(values))) if clusters is None else clusters
    return Shift(
        n=len(values),
        mean=float(values.mean()),
        interval=cluster_interval(lambda rows: float(values[rows].mean()), own),
        dz=_dz(values),
        dz_interval=cluster_interval(lambda rows: _dz(values[rows]), own),
    )


def cluster_interval(statistic: Statistic, clusters: Sequence[Hashable], seed: int = 0) -> Interval:
    """95 per cent percentile bootstrap over clusters; replicates in which it is not defined are left out."""
    codes = _codes(clusters)
    members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    generator = np.random.default_rng(seed)
    samples = [
        statistic(np.concatenate([members[i] for i in generator.integers(len(members), size=len(members))]))
        for _ in range(REPLICATES)
    ]
    known = np.array(samples)[np.isfinite(samples)]
    if len(known) == 0:
        return float("nan"), float("nan")
    return percentile_interval(known)


def random_aucs(
    activations: npt.NDArray[np.float32],
    in_class: Sequence[bool],
    strata: Sequence[Hashable] | None = None,
    n: int = 500,
) -> Floats:
    """AUCs of n seeded random directions: what a direction that points nowhere in particular reaches on the same rows.

    Args:
        activations: `(n_rows, d_model)` float32, residual units.
        in_class: `(n_rows,)`.
        strata: As in `separation`.
        n: Directions.

    Returns:
        `(n,)` float64, sorted.
    """
    inside = np.asarray(in_class, bool)
    groups = _codes(strata) if strata is not None else np.zeros(len(inside), np.int64)
    directions = np.random.default_rng(0).standard_normal((activations.shape[1], n))
    projected = activations.astype(np.float64) @ (directions / np.linalg.norm(directions, axis=0))
    return np.sort([_within_auc(column, inside, groups) for column in projected.T])


def beside_random(area: float, random: Floats) -> dict[str, float]:
    """Columns that say what random directions reach: their 95 per cent range, and how many are as far from 0.5."""
    low, high = percentile_interval(random)
    as_far = float((np.abs(random - 0.5) >= abs(area - 0.5)).mean())
    return {"random_auc_low": low, "random_auc_high": high, "random_as_far": as_far}


def wilson(successes: int, n: int) -> Interval:
    """95 per cent score interval of a share (Wilson 1927), which holds near 0 and 1 and for few trials too."""
    share, z = successes / n, Z95
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, middle - half), min(1.0, middle + half)


def _within_auc(values: Floats, inside: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64]) -> float:
    total = pairs = 0.0
    for group in np.unique(groups):
        at = groups == group
        first, second = values[at & inside], values[at & ~inside]
        if len(first) and len(second):
            total += auc(first, second) * len(first) * len(second)
            pairs += len(first) * len(second)
    return total / pairs if pairs else float("nan")


def _within_d(values: Floats, inside: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64]) -> float:
    """Mean of the strata's differences, weighted by n m / (n + m), over the standard deviation within class and stratum."""
    gap = weight = squares = 0.0
    free = 0
    for group in np.unique(groups):
        at = groups == group
        first, second = values[at & inside], values[at & ~inside]
        if not (len(first) and len(second)):
            continue
        share = len(first) * len(second) / (len(first) + len(second))
        gap += share * float(first.mean() - second.mean())
        weight += share
        squares += float(((first - first.mean()) ** 2).sum() + ((second - second.mean()) ** 2).sum())
        free += len(first) + len(second) - 2
    if weight == 0 or free <= 0 or squares <= 0:
        return float("nan")
    return gap / weight / float(np.sqrt(squares / free))


def _dz(values: Floats) -> float:
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return float(values.mean()) / spread if spread > 0 else float("nan")


def _codes(labels: Sequence[Hashable]) -> npt.NDArray[np.int64]:
    """Labels as numbers from 0, in order of appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], np.int64)
