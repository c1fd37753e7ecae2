"""Paired deltas with an interval, the rule for an effect, and measures of separation and rank order.

The database computes the same in SQL, so that its views are up to date as rows are added: `bootstrap_interval` and
`cohens_d` give the same numbers here and there (tests/client/test_results_views.py).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from trait_core.errors import InvalidRequestError

Key = TypeVar("Key", bound=Hashable)

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]

REPLICATES = 1000
LEVEL = 0.95
MAX_VALUES = 65536
"""Maximum number of values for one interval: the random source counts `65536 * replicate + position`."""


@dataclass(frozen=True)
class PairedDelta:
    """Steered minus baseline, over the prompts that both have.

    Attributes:
        n: Prompts.
        baseline: Mean.
        steered: Mean.
        delta: Mean difference.
        sd: Standard deviation of the differences (n - 1); None for fewer than two.
        interval: 95 per cent bootstrap interval of `delta`; None for fewer than two.
    """

    n: int
    baseline: float
    steered: float
    delta: float
    sd: float | None
    interval: Interval | None


def paired_delta(steered: Mapping[Key, float], baseline: Mapping[Key, float]) -> PairedDelta:
    """Pair two sets of scores by prompt.

    Raises:
        InvalidRequestError: No prompt is in both.
    """
    keys = sorted(steered.keys() & baseline.keys(), key=str)
    if not keys:
        raise InvalidRequestError(
            f"no prompt has both scores: {len(steered)} steered, {len(baseline)} baseline, none in common"
        )
    after, before = (np.array([scores[key] for key in keys], dtype=np.float64) for scores in (steered, baseline))
    deltas = after - before
    return PairedDelta(
        n=len(keys),
        baseline=float(before.mean()),
        steered=float(after.mean()),
        delta=float(deltas.mean()),
        sd=float(deltas.std(ddof=1)) if len(keys) > 1 else None,
        interval=bootstrap_interval(deltas),
    )


def bootstrap_interval(deltas: Sequence[float] | Floats) -> Interval | None:
    """Percentile bootstrap of the mean, 95 per cent, 1000 replicates (Efron & Tibshirani 1993, chapter 13).

    Replicate r draws position i from `mix32(1 + 65536 r + i) mod n`: the counter is the only seed, so the same
    deltas in the same order have the same interval. With few values it is too narrow: always report n with it.

    Returns:
        `(low, high)`; None for fewer than two values.

    Raises:
        InvalidRequestError: More than 65536 values.
    """
    values = np.asarray(deltas, dtype=np.float64)
    return percentile_interval(values[_picks(len(values))].mean(axis=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class PairedShift:
    """Mean and standardised mean of paired differences, with 95 per cent bootstrap intervals.

    Attributes:
        n: Pairs.
        mean: Mean difference.
        interval: Interval of `mean`; None for fewer than two pairs.
        dz: `mean / sd`, Cohen's d_z (Lakens 2013, formula 7); None if the differences have no spread.
        dz_interval: Interval of `dz` over the replicates that have a spread; None where `dz` is.
    """

    n: int
    mean: float
    interval: Interval | None
    dz: float | None
    dz_interval: Interval | None


def paired_shift(differences: Sequence[float] | Floats) -> PairedShift:
    """Mean and d_z of paired differences, both intervals from the resamples of `bootstrap_interval`.

    Raises:
        InvalidRequestError: No differences, or more than 65536.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) == 0:
        raise InvalidRequestError("there are no differences: give at least one pair")
    dz = standardised_means(values[:, None])[0]
    if not np.isfinite(dz):
        return PairedShift(len(values), float(values.mean()), bootstrap_interval(values), None, None)
    replicates = standardised_means(values[_picks(len(values))].T)
    return PairedShift(
        n=len(values),
        mean=float(values.mean()),
        interval=bootstrap_interval(values),
        dz=float(dz),
        dz_interval=percentile_interval(replicates[np.isfinite(replicates)]),
    )


def standardised_means(columns: Floats) -> Floats:
    """Mean over standard deviation (n - 1) of each column of `(n, n_columns)`; NaN for a column without spread."""
    if len(columns) < 2:
        return np.full(columns.shape[1], np.nan)
    spread = columns.std(axis=0, ddof=1)
    spread[spread <= np.finfo(np.float64).eps * np.abs(columns).max(axis=0)] = np.nan  # rounding of equal values
    means: Floats = columns.mean(axis=0) / spread
    return means


def percentile_interval(samples: Sequence[float] | Floats) -> Interval:
    """`(low, high)`: the middle 95 per cent of bootstrap replicates, `(n_replicates,)`."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def is_effect(delta: float, interval: Interval | None, control: Sequence[float]) -> bool | None:
    """Tell whether a delta exceeds every random direction's, on the side of its sign, and its interval excludes 0.

    Returns:
        None if it cannot be decided: without control or interval.
    """
    if interval is None or not control:
        return None
    low, high = interval
    return (delta > max(control) and low > 0) if delta > 0 else (delta < min(control) and high < 0)


def cohens_d(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float | None:
    """`(mean(a) - mean(b)) / s`, `s^2 = ((n - 1) s_a^2 + (m - 1) s_b^2) / (n + m - 2)` (Cohen 1988, section 2.5).

    Returns:
        None if `s` is 0, or either side has fewer than two values.
    """
    if len(a) + len(b) <= 2 or min(len(a), len(b)) < 2:
        return None
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    squares = (len(a) - 1) * first.var(ddof=1) + (len(b) - 1) * second.var(ddof=1)
    pooled = float(np.sqrt(squares / (len(a) + len(b) - 2)))
    return float(first.mean() - second.mean()) / pooled if pooled else None


def auc(positive: Floats, negative: Floats) -> float:
    """Area under the ROC curve: P(a positive lies above a negative), ties counted half (Mann-Whitney).

    Returns:
        NaN if one of the two is empty.
    """
    n_pairs = len(positive) * len(negative)
    if n_pairs == 0:
        return float("nan")
    ordered = np.sort(negative)
    below, not_above = (np.searchsorted(ordered, positive, side).sum() for side in ("left", "right"))
    return float(below / n_pairs + (not_above - below) / n_pairs / 2)


def wins(positive: Floats, negative: Floats) -> Floats:
    """`(n_positive, n_negative)`: 1 if the positive lies above the negative, 0.5 at a tie; their mean is the AUC."""
    gaps = positive[:, None] - negative[None, :]
    won: Floats = (gaps > 0) + (gaps == 0) / 2
    return won


def spearman(a: Floats, b: Floats) -> float | None:
    """Spearman's rank correlation with average ranks for ties.

    Returns:
        None for fewer than three values, or if those of one side are all equal.
    """
    if len(a) < 3:
        return None
    first, second = average_ranks(a), average_ranks(b)
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / norm if norm > 0 else None


def average_ranks(values: Floats) -> Floats:
    """Ranks from 0, `(n,)`; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts + 1) / 2)[place]
    return ranks


def _picks(n: int) -> npt.NDArray[np.int64]:
    """Positions that each replicate draws, `(REPLICATES, n)`."""
    if n > MAX_VALUES:
        raise InvalidRequestError(f"{n} values are too many for one interval: at most {MAX_VALUES}")
    counters = 1 + MAX_VALUES * np.arange(REPLICATES, dtype=np.uint64)[:, None] + np.arange(n, dtype=np.uint64)
    return (_mix32(counters) % np.uint64(n)).astype(np.int64)


def _mix32(counters: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Murmur3's 32-bit finaliser of `counter * 2654435769` (the golden ratio), in 64-bit arithmetic."""
    mask = np.uint64(0xFFFFFFFF)
    x: npt.NDArray[np.uint64] = (counters * np.uint64(2654435769)) & mask
    x ^= x >> np.uint64(16)
    x = (x * np.uint64(2246822507)) & mask
    x ^= x >> np.uint64(13)
    x = (x * np.uint64(3266489909)) & mask
    return x ^ (x >> np.uint64(16))
