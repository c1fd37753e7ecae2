"""Paired deltas with an interval, and when one is called an effect.

The database computes the same in SQL, so that its views follow the rows as they are added: `bootstrap_interval` and
`cohens_d` here and there give the same numbers (tests/client/test_results_views.py).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from trait_core.errors import InvalidRequestError

Key = TypeVar("Key", bound=Hashable)

REPLICATES = 1000
LEVEL = 0.95
MAX_VALUES = 65536
"""Values of one interval: the random source counts `65536 * replicate + position`."""


@dataclass(frozen=True)
class PairedDelta:
    """Steered minus baseline over the prompts that both have.

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
    interval: tuple[float, float] | None


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


def bootstrap_interval(deltas: Sequence[float] | np.ndarray) -> tuple[float, float] | None:
    """Percentile bootstrap of the mean, 95 per cent, 1000 replicates (Efron & Tibshirani 1993, chapter 13).

    Replicate r draws position i from `mix32(1 + 65536 r + i) mod n`: seeded by nothing but the counter, so the same
    deltas in the same order have the same interval. With a handful of values it is too narrow: n stands beside it.

    Returns:
        `(low, high)`; None for fewer than two values.

    Raises:
        InvalidRequestError: More than 65536 values.
    """
    values = np.asarray(deltas, dtype=np.float64)
    n = len(values)
    if n < 2:
        return None
    if n > MAX_VALUES:
        raise InvalidRequestError(f"{n} values are too many for one interval: at most {MAX_VALUES}")
    counters = 1 + MAX_VALUES * np.arange(REPLICATES, dtype=np.uint64)[:, None] + np.arange(n, dtype=np.uint64)
    means = values[(_mix32(counters) % np.uint64(n)).astype(np.int64)].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def is_effect(delta: float, interval: tuple[float, float] | None, control: Sequence[float]) -> bool | None:
    """Whether a delta lies beyond every random direction's, on the side of its sign, and its interval excludes 0.

    Returns:
        None where that cannot be said: no control, or no interval.
    """
    if interval is None or not control:
        return None
    low, high = interval
    return (delta > max(control) and low > 0) if delta > 0 else (delta < min(control) and high < 0)


def cohens_d(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Difference of means over the pooled standard deviation; None where that is 0 or not defined."""
    if len(a) + len(b) <= 2 or min(len(a), len(b)) < 2:
        return None
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    squares = (len(a) - 1) * first.var(ddof=1) + (len(b) - 1) * second.var(ddof=1)
    pooled = float(np.sqrt(squares / (len(a) + len(b) - 2)))
    return float(first.mean() - second.mean()) / pooled if pooled else None


def _mix32(counters: "np.ndarray[Any, np.dtype[np.uint64]]") -> "np.ndarray[Any, np.dtype[np.uint64]]":
    """Murmur3's 32-bit finaliser of `counter * 2654435769` (the golden ratio), in 64-bit arithmetic."""
    mask = np.uint64(0xFFFFFFFF)
    x = (counters * np.uint64(2654435769)) & mask
    x ^= x >> np.uint64(16)
    x = (x * np.uint64(2246822507)) & mask
    x ^= x >> np.uint64(13)
    x = (x * np.uint64(3266489909)) & mask
    return x ^ (x >> np.uint64(16))


def auc(positive: npt.NDArray[np.float64], negative: npt.NDArray[np.float64]) -> float:
    """Area under the ROC curve: P(a positive lies above a negative), ties counted half (Mann-Whitney)."""
    gaps = positive[:, None] - negative[None, :]
    return float((gaps > 0).mean() + (gaps == 0).mean() / 2)
