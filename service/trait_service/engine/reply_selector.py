"""Selectors of positions in a reply that is being generated: as they travel to the workers, and as the device reads them."""

from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from trait_core.errors import SteeringFailedError
from trait_core.intervals import MAX_STEP, UNBOUNDED, Interval
from trait_core.positions import MAX_ITEMS

MAX_SELECTORS = 7
"""Distinct selectors of one request."""

Index = Annotated[int, Field(ge=0, le=UNBOUNDED)]
"""Index of a position inside a part."""

Token = Annotated[int, Field(ge=0, lt=UNBOUNDED)]
"""Id of a token."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ReplyStart(_Strict):
    """The beginning of a reply, as it is known before its first token.

    Attributes:
        first: Absolute position of its first token.
        opened: The prompt has opened the reasoning.
        begin: Token that opens the reasoning; None: no token does.
        end: Token that closes it.
    """

    first: Index
    opened: bool = False
    begin: Token | None = None
    end: Token | None = None


class ReplyItem(_Strict):
    """A slice of one part of a reply.

    Attributes:
        part: The part that is sliced.
        start: Index inside the part.
        stop: One past the last index.
        step: Distance of two positions.
        token: Only positions of this token; None: of any.
    """

    part: Literal["response", "thinking", "answer"] = "response"
    start: Index = 0
    stop: Index = UNBOUNDED
    step: Annotated[int, Field(ge=1, le=MAX_STEP)] = 1
    token: Token | None = None


class ReplySelector(_Strict):
    """A set of a reply's positions. Each is decided by the text up to it: the token there, and those before.

    The reasoning begins after the opening marker, or with the reply if the prompt has opened it, and ends before the first
    closing marker. The answer is what follows that marker, and what comes before any marker in a reply whose reasoning is not
    opened. Markers that the rule does not name are text like any other.

    Attributes:
        reply: The reply.
        select: The union of these is taken.
        without: These are taken out of it.
    """

    reply: ReplyStart
    select: Annotated[tuple[ReplyItem, ...], Field(min_length=1, max_length=MAX_ITEMS)]
    without: Annotated[tuple[ReplyItem, ...], Field(max_length=MAX_ITEMS)] = ()

    @property
    def interval(self) -> Interval:
        """Absolute positions outside which it selects nothing."""
        return Interval(self.reply.first, UNBOUNDED)


PARTS = ("response", "thinking", "answer")
"""Parts of a reply; an item's number is the place of its own among them."""

NO_TOKEN = -1

ITEM_NUMBERS = 7
"""Numbers of an item: part, start, stop, step, token, and the bits that it sets and clears."""

NOWHERE = (0, 0, 0, 1, NO_TOKEN, 0, 0)
"""An item that holds no position."""

START_NUMBERS = 4
"""Numbers of a reply's start: first position, whether it is opened, opening and closing marker."""


class Selectors(NamedTuple):
    """A request's selectors.

    Attributes:
        start: `(START_NUMBERS,)` int64.
        items: `(n_items, ITEM_NUMBERS)` int64.
    """

    start: np.ndarray
    items: np.ndarray

    def __bool__(self) -> bool:
        return len(self.items) > 0


NO_SELECTORS = Selectors(np.zeros(START_NUMBERS, dtype=np.int64), np.empty((0, ITEM_NUMBERS), dtype=np.int64))


def selectors_of(bits: dict[ReplySelector, int]) -> Selectors:
    """A request's selectors, each with its bit.

    Raises:
        SteeringFailedError: There are more than `MAX_SELECTORS`, or they are not of one reply.
    """
    if not bits:
        return NO_SELECTORS
    if len(bits) > MAX_SELECTORS:
        raise SteeringFailedError(f"{len(bits)} distinct selectors of a reply in one request; at most {MAX_SELECTORS}")
    starts = {_start(selector.reply) for selector in bits}
    if len(starts) > 1:
        raise SteeringFailedError(f"the selectors of one request are of {len(starts)} different replies")
    items = []
    for selector, bit in bits.items():
        items += [(*_item(item), 1 << bit, 0) for item in selector.select]
        items += [(*_item(item), 0, 1 << bit) for item in selector.without]
    return Selectors(np.array(next(iter(starts)), dtype=np.int64), np.array(items, dtype=np.int64))


def _start(reply: ReplyStart) -> tuple[int, ...]:
    begin, end = (NO_TOKEN if token is None else token for token in (reply.begin, reply.end))
    return reply.first, reply.opened, begin, end


def _item(item: ReplyItem) -> tuple[int, ...]:
    token = NO_TOKEN if item.token is None else item.token
    return PARTS.index(item.part), item.start, item.stop, item.step, token
