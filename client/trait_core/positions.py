"""Token positions that a capture reads: `prompt[-1]`, `prompt[:]`, `response[:]`, `response[:5]`, `all[4:]`, `turn[-1]`.

A request's positions are absolute token indices. The prompt is `[0, n_prompt)`; the response is
`[n_prompt, n_total)`: generated tokens, or the tokens of a given reply. Python's slice rules apply inside each part,
without a step. `turn[i]` is one turn of a chat as its template renders it, including the header; a reply is the last
turn.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast

from trait_core.errors import InvalidRequestError

Part = Literal["prompt", "response", "all", "turn"]

UNBOUNDED = 2**31 - 1
"""End of an interval that runs to the end of the sequence, whose length is not known yet."""

_PATTERN = re.compile(r"^(prompt|response|all|turn)\[(?:(-?\d{1,9})|(-?\d{1,9})?:(-?\d{1,9})?)\]$")


@dataclass(frozen=True)
class Positions:
    """A slice of a request's token positions.

    Args:
        part: The part that is sliced.
        start: First index inside the part; negative counts from its end; None is its beginning.
        stop: One past the last index; negative counts from the end; None is the end.
    """

    part: Part
    start: int | None
    stop: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the written form.

        Raises:
            InvalidRequestError: `text` is not `prompt|response|all` with an index or a slice, or `turn` with an index.
        """
        match = _PATTERN.match(text)
        if match is None:
            raise InvalidRequestError(
                f"positions {text[:80]!r} are not understood: write prompt[-1], prompt[:], response[:], response[:5] "
                "all[4:] (a part, then an index or a slice without a step) or turn[-1]",
                param="positions",
            )
        index, start, stop = match.group(2, 3, 4)
        part = cast("Part", match.group(1))
        if part == "turn" and index is None:
            raise InvalidRequestError(f"positions {text!r}: a turn has an index, such as turn[-1]", param="positions")
        if index is not None:
            first = int(index)
            return cls(part, first, None if first == -1 else first + 1)
        return cls(part, int(start) if start else None, int(stop) if stop else None)

    def interval(self, n_prompt: int, n_total: int | None) -> tuple[int, int]:
        """Absolute positions `[start, stop)`.

        Args:
            n_prompt: Tokens of the prompt.
            n_total: Tokens of the sequence; None while the response is still being generated.

        Returns:
            `(start, stop)`, where `stop` is `UNBOUNDED` for an end that is not known yet. Empty when start >= stop.

        Raises:
            InvalidRequestError: A negative index into a response whose end is not known yet.
        """
        base = n_prompt if self.part == "response" else 0
        end = n_prompt if self.part == "prompt" else n_total
        start = self._absolute(self.start, base, end) if self.start is not None else base
        if self.stop is not None:  # noqa: SIM108 - two cases, two lines
            stop = self._absolute(self.stop, base, end)
        else:
            stop = UNBOUNDED if end is None else end
        return (start, stop if end is None else min(stop, end))

    def turn(self, turns: Sequence[tuple[int, int]]) -> "Positions":
        """Resolve a turn to `all[start:stop]`; positions of other parts are returned unchanged.

        Args:
            turns: Absolute `[start, stop)` of each turn of the chat.

        Raises:
            InvalidRequestError: The chat has no such turn.
        """
        if self.part != "turn" or self.start is None:
            return self
        if not -len(turns) <= self.start < len(turns):
            raise InvalidRequestError(f"positions {self}: the chat has {len(turns)} turns", param="positions")
        start, stop = turns[self.start]
        return Positions("all", start, None if stop == UNBOUNDED else stop)

    def _absolute(self, index: int, base: int, end: int | None) -> int:
        if index >= 0:
            return base + index
        if end is None:
            raise InvalidRequestError(
                f"positions {self} count from the end of a response that is still being generated: "
                "use an index of 0 or more, or give the response's text",
                param="positions",
            )
        return max(base, end + index)

    def __str__(self) -> str:
        if self.start is not None and (
            (self.stop is not None and self.stop == self.start + 1) or (self.start == -1 and self.stop is None)
        ):
            return f"{self.part}[{self.start}]"
        start = "" if self.start is None else self.start
        stop = "" if self.stop is None else self.stop
        return f"{self.part}[{start}:{stop}]"
