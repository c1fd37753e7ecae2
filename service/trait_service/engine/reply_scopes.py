"""Which positions of a reply its selectors hold: decided on the device from the step's own tokens, before the first layer.

Under asynchronous scheduling the host learns of a token one step late. What a selector needs of the tokens before its position
is where the reply's first opening and first closing marker are: two positions for each request, which stay on the device until it
leaves the engine, whatever row it has. Positions at and after the start of a step are found again, so that nothing is held of
tokens that a preemption has thrown away. A selector is a bit in the tokens' words, above those of gates (`gates`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from trait_core.errors import SteeringFailedError
from trait_core.intervals import UNBOUNDED

from trait_service.engine.batch import Intervals, LiveBatch, Step
from trait_service.engine.buffers import on_device
from trait_service.engine.reply_selector import (
    ITEM_NUMBERS,
    NO_TOKEN,
    NOWHERE,
    START_NUMBERS,
    ReplySelector,
    selectors_of,
)


class Words(NamedTuple):
    """Words of a step's tokens, as far as selectors of its requests may hold them.

    Attributes:
        place: `(n,)` int64 places of tokens in the step.
        word: `(n,)` int32 their words; the bits of gates are 0.
    """

    place: torch.Tensor
    word: torch.Tensor


class ReplyScopes:
    """The selectors of a batch, and what its requests' replies have shown so far.

    Args:
        device: Where the tokens are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._markers = torch.empty(
            (0, 2), dtype=torch.int64, device=device
        )  # first opening and closing one, by request
        self._free: list[int] = []
        self.regroup(LiveBatch(0, []))

    def take(self) -> int:
        """A row for a new request's markers."""
        if not self._free:
            n = len(self._markers)
            self._free = list(range(2 * n + 7, n - 1, -1))
            more = torch.full((n + 8, 2), UNBOUNDED, dtype=torch.int64, device=self._device)
            self._markers = torch.cat([self._markers, more])
        row = self._free.pop()
        self._markers[row].fill_(UNBOUNDED)
        return row

    def give_back(self, row: int) -> None:
        """Free a request's row."""
        self._free.append(row)

    def __bool__(self) -> bool:
        return len(self._intervals.owner) > 0

    def regroup(self, batch: LiveBatch) -> None:
        """Gather the selectors of a batch after a change of its membership."""
        selecting = batch.selecting_requests
        owner = np.array([index for index, _ in selecting], dtype=np.int64)
        starts = np.array([request.selectors.start for _, request in selecting], dtype=np.int64)
        first = starts.reshape(-1, START_NUMBERS)[:, 0]
        self._intervals = Intervals(owner, first, np.full_like(first, UNBOUNDED))
        if not selecting:
            return
        most = max(len(request.selectors.items) for _, request in selecting)
        items = np.full((len(selecting), most, ITEM_NUMBERS), NOWHERE, dtype=np.int64)
        for i, (_, request) in enumerate(selecting):
            items[i, : len(request.selectors.items)] = request.selectors.items
        rows = np.array([request.marker_row for _, request in selecting], dtype=np.int64)
        self._starts, self._items, self._rows = (on_device(each, self._device) for each in (starts, items, rows))

    def on_step(self, step: Step) -> Words | None:
        """The words of the step's tokens that selectors may hold; None: there are none.

        Raises:
            SteeringFailedError: The step's tokens are not known.
        """
        spans = self._intervals.spans(step)
        place = spans.places()
        if not len(place):
            return None
        if step.input_ids is None:
            raise SteeringFailedError("the tokens of this step are not known, and a selector depends on them")
        which = np.repeat(np.arange(len(spans.length)), spans.length)
        owner = self._intervals.owner
        position = place + (step.n_computed - step.first_place)[owner[which]]
        sent = on_device(np.stack([place, which, position]).astype(np.int64), self._device)
        computed = on_device(step.n_computed[owner].astype(np.int64), self._device)
        ids = step.input_ids.index_select(0, sent[0]).long()
        before = self._markers.index_select(0, self._rows)
        before = torch.where(before >= computed[:, None], UNBOUNDED, before)
        found = markers_seen(self._starts, before, ids, sent[1], sent[2])
        self._markers.index_copy_(0, self._rows, found)
        word = words(self._starts[sent[1]], self._items[sent[1]], found[sent[1]], ids, sent[2])
        return Words(sent[0], word.to(torch.int32))


def markers_seen(
    starts: torch.Tensor, before: torch.Tensor, ids: torch.Tensor, which: torch.Tensor, position: torch.Tensor
) -> torch.Tensor:
    """Where each reply's first opening and closing marker are, `(n_requests, 2)` int64; `UNBOUNDED` if there is none yet.

    Args:
        starts: `(n_requests, START_NUMBERS)` int64.
        before: `(n_requests, 2)` int64: the same for the tokens before.
        ids: `(n,)` int64 tokens of replies.
        which: `(n,)` int64 the request of each.
        position: `(n,)` int64 its absolute position.
    """
    here = torch.where(ids[:, None] == starts[which, 2:], position[:, None], UNBOUNDED)
    return before.scatter_reduce(0, which[:, None].expand(-1, 2), here, "amin")


def words(
    start: torch.Tensor, items: torch.Tensor, markers: torch.Tensor, ids: torch.Tensor, position: torch.Tensor
) -> torch.Tensor:
    """`(n,)` int64: a bit for each selector that holds a token. Each argument has an entry for each token.

    Args:
        start: `(n, START_NUMBERS)` int64 start of its reply.
        items: `(n, n_items, ITEM_NUMBERS)` int64.
        markers: `(n, 2)` int64 as `markers_seen`.
        ids: `(n,)` int64.
        position: `(n,)` int64 absolute positions, in the reply.
    """
    first, opened = start[:, 0], start[:, 1] != 0
    begin, end = markers.unbind(1)
    ended = position > end
    inside = torch.stack(
        [
            torch.ones_like(ended),
            (position < end) & (opened | (position > begin)),
            ended | (~opened & (position < torch.minimum(begin, end))),
        ],
        dim=1,
    )
    base = torch.stack(
        [first, torch.where(opened, first, begin + 1), torch.where(ended, end + 1, first)],
        dim=1,
    )
    part, low, high, step, token, sets, clears = items.unbind(2)
    index = position[:, None] - base.gather(1, part)
    held = inside.gather(1, part) & (index >= low) & (index < high) & ((index - low) % step == 0)
    held &= (token == NO_TOKEN) | (token == ids[:, None])
    return _any_bits(torch.where(held, sets, 0)) & ~_any_bits(torch.where(held, clears, 0))


def _any_bits(numbers: torch.Tensor) -> torch.Tensor:
    """`(n,)` int64: the bits that are set in any of a row's numbers."""
    found = torch.zeros_like(numbers[:, 0])
    for each in numbers.unbind(1):
        found |= each
    return found


class HeldPositions:
    """The positions of one reply that a selector holds, by the same rule, as its tokens become known on the host.

    Args:
        selector: The selector.
    """

    def __init__(self, selector: ReplySelector) -> None:
        numbers = selectors_of({selector: 0})
        self._start, self._items = torch.from_numpy(numbers.start)[None], torch.from_numpy(numbers.items)[None]
        self._markers = torch.full((1, 2), UNBOUNDED)
        self._held = np.zeros(selector.reply.first, dtype=np.bool_)

    def feed(self, ids: Sequence[int]) -> None:
        """Add the reply's next tokens."""
        tokens = torch.tensor(ids, dtype=torch.int64)
        which, position = torch.zeros_like(tokens), len(self._held) + torch.arange(len(tokens))
        self._markers = markers_seen(self._start, self._markers, tokens, which, position)
        held = words(self._start[which], self._items[which], self._markers[which], tokens, position) != 0
        self._held = np.concatenate([self._held, held.numpy()])

    def below(self, stop: int) -> np.ndarray:
        """`(stop,)` bool by absolute position; the tokens below `stop` were fed."""
        return self._held[:stop]
