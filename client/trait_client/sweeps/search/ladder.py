"""Two strategies that choose the next coefficients of one layer of one vector. No I/O.

Both look for the largest coefficient whose replies are still coherent (the cliff): `Climb` walks up to it one coefficient a
step, `Bracket` narrows an interval around it with several coefficients a step.
"""

import math
from collections.abc import Mapping

from trait_client.sweeps.search.settings import SearchSettings

DIGITS = 3
"""Significant digits of a coefficient; rounding lets earlier trials be reused, and finer differences are noise."""


class Climb:
    """One coefficient for each step: times `up_mult` while coherent, times `down_mult` while not, with momentum.

    log c' = log c + v, v = log(factor) + momentum * v_last, where v_last counts only if it has the same sign.
    """

    def __init__(self, settings: SearchSettings, start: float, limit: float) -> None:
        self._settings = settings
        self._next = min(start, limit)
        self._limit = limit
        self._velocity = 0.0
        self._tried: set[float] = set()

    def propose(self) -> list[float]:
        """Coefficients of the next step; none at the limit, or if the next one is known already."""
        coefficient = _rounded(self._next)
        return [] if coefficient in self._tried else [coefficient]

    def learn(self, coherent: Mapping[float, bool]) -> None:
        """Learn which of the proposed coefficients were coherent."""
        for coefficient, good in coherent.items():
            self._tried.add(coefficient)
            change = math.log(self._settings.up_mult if good else self._settings.down_mult)
            carried = self._velocity if self._velocity * change > 0 else 0.0
            self._velocity = change + self._settings.momentum * carried
            self._next = min(coefficient * math.exp(self._velocity), self._limit)


class Bracket:
    """`width` coefficients for each step, evenly spaced on a log scale between the known bounds of the cliff.

    The first step spans a factor of `up_mult ** width` around the start. If all of them are coherent the next step is
    above, if none is coherent below; otherwise between the largest coherent and the smallest incoherent one above it.
    """

    def __init__(self, settings: SearchSettings, start: float, limit: float) -> None:
        self._width = settings.width
        self._span = settings.up_mult**settings.width
        self._limit = limit
        self._low: float | None = None
        self._high: float | None = None
        self._start = min(start, limit)
        self._tried: set[float] = set()

    def propose(self) -> list[float]:
        """Coefficients of the next step; none if no untried value is left between the bounds."""
        if self._low is None and self._high is None:
            found = _spaced(self._start / math.sqrt(self._span), self._start * math.sqrt(self._span), self._width)
        elif self._high is None:
            assert self._low is not None, "checked above"
            found = _spaced(self._low, self._low * self._span, self._width + 1)[1:]
        elif self._low is None:
            found = _spaced(self._high / self._span, self._high, self._width + 1)[:-1]
        else:
            found = _spaced(self._low, self._high, self._width + 2)[1:-1]
        proposed = {_rounded(min(each, self._limit)) for each in found}
        return sorted(proposed - self._tried)

    def learn(self, coherent: Mapping[float, bool]) -> None:
        """Learn which of the proposed coefficients were coherent; the smallest incoherent one is the upper bound."""
        self._tried.update(coherent)
        for coefficient in sorted(coherent):
            if not coherent[coefficient]:
                self._high = min(coefficient, self._high or math.inf)
                return
            self._low = max(coefficient, self._low or 0.0)


Ladder = Climb | Bracket


def ladder(settings: SearchSettings, start: float, limit: float) -> Ladder:
    """Make the ladder of the strategy; no coefficient exceeds `limit`."""
    return (Climb if settings.strategy == "climb" else Bracket)(settings, start, limit)


def _spaced(low: float, high: float, n: int) -> list[float]:
    if n == 1:
        return [math.sqrt(low * high)]
    return [low * (high / low) ** (i / (n - 1)) for i in range(n)]


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
