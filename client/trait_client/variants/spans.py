"""Parts of a text: its clauses, and the spans where two models differ most. Numbers and tokens only; no I/O."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bounds = tuple[int, int]
"""`[start, stop)` in tokens."""

SHORTEST = 4
"""Least tokens of a span; a shorter text is one span."""

_CLOSERS = "\"'\u201d\u2019»)]}*_"
_FULL_WIDTH = "\uff0c\uff1b\uff1a\uff01\uff1f\u3001\u3002"
_ENDS = re.compile(rf"[.,;:!?…—{_FULL_WIDTH}][{re.escape(_CLOSERS)}]*\s*$|\n")
_GOES_ON = re.compile(rf"^[{re.escape(_CLOSERS)}]+\s*$")
_ENDS_IN_NUMBER_MARK = re.compile(r"[.,:]$")


def clauses(tokens: Sequence[str], start: int, stop: int) -> list[Bounds]:
    """Split `tokens[start:stop]` after sentence and clause punctuation and after line breaks, between whole tokens.

    A point, comma or colon before a digit does not end a clause; closing quotes and brackets belong to the clause
    before them. The clauses cover the range without gaps.
    """
    found = []
    begun = start
    for i in range(start, stop):
        following = tokens[i + 1] if i + 1 < stop else ""
        if not _ENDS.search(tokens[i]) and not (
            i > begun and _GOES_ON.match(tokens[i]) and _ENDS.search(tokens[i - 1])
        ):
            continue
        if _GOES_ON.match(following) or (_ENDS_IN_NUMBER_MARK.search(tokens[i]) and following[:1].isdigit()):
            continue
        found.append((begun, i + 1))
        begun = i + 1
    if begun < stop:
        found.append((begun, stop))
    return found


@dataclass(frozen=True)
class Span:
    """Tokens of one text on which two models differ.

    Attributes:
        text: Index of the text.
        start: First token, counted within the text.
        stop: One past the last token.
        size: Mean |difference| of the tokens, residual units.
    """

    text: int
    start: int
    stop: int
    size: float


def largest_spans(differences: Sequence[Floats], n: int, above: float = 0.0) -> list[Span]:
    """The `n` windows with the largest mean |difference|, over all texts, that do not overlap.

    A window has at least `SHORTEST` tokens (a shorter text: all of its tokens). Windows of more than `2 * SHORTEST - 1`
    tokens are not searched: one of their halves is as large. They are taken from the largest on, and one that shares a
    token with a window taken before is dropped; of equal ones the earlier and shorter is taken.

    Args:
        differences: One array for each text, `(n_tokens,)`, residual units.
        n: Number of spans.
        above: Spans whose mean |difference| is not above it are left out.
    """
    windows = [window for text, values in enumerate(differences) for window in _windows(text, np.abs(values), above)]
    windows.sort(key=lambda span: (-span.size, span.text, span.start, span.stop))
    taken: list[Span] = []
    for span in windows:
        if len(taken) == n:
            break
        if all(span.text != other.text or span.stop <= other.start or other.stop <= span.start for other in taken):
            taken.append(span)
    return taken


def _windows(text: int, sizes: Floats, above: float) -> list[Span]:
    sums = np.concatenate([[0.0], np.cumsum(sizes)])
    shortest = min(SHORTEST, len(sizes))
    found = []
    for length in range(max(shortest, 1), min(2 * SHORTEST, len(sizes) + 1)):
        means = (sums[length:] - sums[:-length]) / length
        starts = np.flatnonzero(means > above)
        found += [Span(text, int(start), int(start) + length, float(means[start])) for start in starts]
    return found
