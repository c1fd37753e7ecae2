"""Arithmetic of token positions: sets of them as disjoint intervals with a step, however long the sequence becomes."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import lcm
from typing import NamedTuple

import numpy as np

from trait_core.errors import InvalidRequestError

UNBOUNDED = 2**31 - 1
"""End of an interval that runs to the end of the sequence, whose length is not known yet."""

MAX_STEP = 2**18
"""Largest step of an interval."""

MAX_PERIOD = 1 << 14
"""Longest pattern of steps that is worked out: longer ones come to far more intervals than a request may have."""


class Interval(NamedTuple):
    """Positions `start`, `start + step`, ... below `stop`."""

    start: int
    stop: int
    step: int = 1

    def __bool__(self) -> bool:
        return self.start < self.stop

    @property
    def last(self) -> int:
        """The last position; meaningless if the interval is empty or unbounded."""
        return self.stop - 1 - (self.stop - 1 - self.start) % self.step

    def below(self, limit: int) -> int:
        """Number of positions below a limit."""
        return max(0, -(-(min(self.stop, limit) - self.start) // self.step))


def disjoint(include: Iterable[Interval], exclude: Iterable[Interval] = ()) -> list[Interval]:
    """Disjoint intervals of the positions that some of `include` hold, and none of `exclude`; ascending by their start.

    Raises:
        InvalidRequestError: Steps that meet again only after more than `MAX_PERIOD` positions.
    """
    taken, left_out = ([_tight(each) for each in some if each] for some in (include, exclude))
    if len(taken) <= 1 and not left_out:
        return taken
    bounds = sorted({bound for each in (*taken, *left_out) for bound in (each.start, each.stop)})
    pieces: list[Interval] = []
    for start, stop in pairwise(bounds):
        inside = [each for each in taken if each.start <= start and stop <= each.stop]
        outside = [each for each in left_out if each.start <= start and stop <= each.stop]
        if inside:
            pieces += _stretch(start, stop, inside, outside)
    return _merged(pieces)


def _tight(interval: Interval) -> Interval:
    """The same positions: the end is one past the last one, and a single position has no step."""
    if interval.step == 1 or interval.stop == UNBOUNDED:
        return interval
    last = interval.last
    return Interval(interval.start, last + 1, interval.step if last > interval.start else 1)


def _stretch(start: int, stop: int, inside: Sequence[Interval], outside: Sequence[Interval]) -> list[Interval]:
    """The positions of one stretch, on all of which the same intervals hold."""
    period = lcm(*(each.step for each in (*inside, *outside)))
    n = min(period, stop - start)
    if n > MAX_PERIOD:
        raise InvalidRequestError(
            f"the steps {sorted({each.step for each in (*inside, *outside)})} meet only every {period} positions; at most "
            f"{MAX_PERIOD}: use steps that divide each other"
        )
    at = np.arange(start, start + n)
    held = np.zeros(n, dtype=np.bool_)
    for each in inside:
        held |= (at - each.start) % each.step == 0
    for each in outside:
        held &= (at - each.start) % each.step != 0
    if n < period or stop - start == period:
        edges = np.flatnonzero(np.diff(held, prepend=False, append=False)).tolist()
        return [Interval(start + a, start + b) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return [_tight(Interval(start + first, stop, step)) for first, step in _progressions(held)]


def _progressions(held: np.ndarray) -> list[tuple[int, int]]:
    """A pattern that repeats, as first position and step of few progressions."""
    found = []
    left = held.copy()
    for step in (s for s in range(1, len(held) + 1) if len(held) % s == 0):
        for first in range(step):
            if left[first::step].all():
                found.append((first, step))
                left[first::step] = False
        if not left.any():
            break
    return found


def _merged(pieces: list[Interval]) -> list[Interval]:
    """Join pieces of neighbouring stretches that go on with the same step."""
    merged: list[Interval] = []
    for piece in sorted(pieces):
        for i, before in enumerate(merged):
            if before.stop == UNBOUNDED:
                continue
            gap = piece.start - before.last
            if gap == piece.step and before.step in (piece.step, 1) and (before.step == gap or _single(before)):
                merged[i] = Interval(before.start, piece.stop, piece.step)
                break
            if gap == before.step and _single(piece):
                merged[i] = Interval(before.start, piece.stop, before.step)
                break
        else:
            merged.append(piece)
    return merged


def _single(interval: Interval) -> bool:
    return interval.stop - interval.start == 1
