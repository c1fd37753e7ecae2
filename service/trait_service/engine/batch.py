"""The live requests of one batch as arrays, and where their intervals lie in a step. No Python loop over tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from trait_service.engine.requests import MONITORED, TERM, LiveRequest
from trait_service.engine.runner_view import StepView


@dataclass(frozen=True)
class Step:
    """The tokens of one forward pass: request `i` has `n_scheduled[i]` of them from `first_place[i]` on.

    Args:
        n_computed: `(n_requests,)` absolute position of each request's first token in this step.
        n_scheduled: `(n_requests,)`.
        first_place: `(n_requests,)` row of that token in the hidden states.
        n_tokens: Number of tokens of all requests.
    """

    n_computed: np.ndarray
    n_scheduled: np.ndarray
    first_place: np.ndarray
    n_tokens: int

    @classmethod
    def of(cls, view: StepView) -> Self:
        """The step that a view describes."""
        ends = np.cumsum(view.n_scheduled)
        return cls(view.n_computed, view.n_scheduled, ends - view.n_scheduled, int(ends[-1]) if len(ends) else 0)


class Spans(NamedTuple):
    """For each item: its first place in the step, and how many tokens of the step it holds on. Both `(n_items,)`."""

    place: np.ndarray
    length: np.ndarray

    def places(self) -> np.ndarray:
        """All places, item after item."""
        if (self.length == 1).all():
            return self.place
        before = np.cumsum(self.length) - self.length
        return np.repeat(self.place - before, self.length) + np.arange(int(self.length.sum()))


@dataclass(frozen=True)
class Intervals:
    """Things that hold on absolute positions `[start, stop)` of the request at place `owner` of the batch."""

    owner: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    @classmethod
    def of(cls, triples: Sequence[tuple[int, int, int]]) -> Self:
        """From `(owner, start, stop)`."""
        owner, start, stop = np.array(triples, dtype=np.int64).reshape(-1, 3).T
        return cls(owner, start, stop)

    def spans(self, step: Step, after: np.ndarray | None = None) -> Spans:
        """Where they lie in a step.

        Args:
            step: The step.
            after: `(n_requests,)` positions below these are left out; None: nothing is.
        """
        computed = step.n_computed[self.owner]
        first = np.maximum(computed, self.start)
        if after is not None:
            first = np.maximum(first, after[self.owner])
        last = np.minimum(computed + step.n_scheduled[self.owner], self.stop)
        return Spans(step.first_place[self.owner] + first - computed, np.maximum(last - first, 0))


class LiveBatch:
    """The requests of the current batch that ask for something.

    Args:
        size: Requests in the runner's batch.
        live: Place in the runner's batch, row, and request.
    """

    def __init__(self, size: int, live: Sequence[tuple[int, int, LiveRequest]]) -> None:
        self.live = [(index, request) for index, _, request in live]
        self._index = {id(request): index for index, _, request in live}
        self.rows = np.full(size, -1, dtype=np.int32)
        self.computed_to = np.zeros(size, dtype=np.int64)
        for index, row, request in live:
            self.rows[index] = row
            self.computed_to[index] = request.computed_to
        working = [(index, request) for index, request in self.live if request.error is None]
        # Even where its capture failed: a request with equal steering may read its blocks from the prefix cache.
        self.terms, self.term_owner = _joined([(index, request.terms) for index, request in self.live], TERM)
        self.monitored, self.monitored_owner = _joined(
            [(index, request.monitored) for index, request in working], MONITORED
        )
        self.pools = [
            (index, pool, slot, interval)
            for index, request in working
            for pool, (slot, interval) in enumerate(zip(request.capture_rows, request.pools, strict=False))
        ]
        self.captured_layers = {
            layer for _, request in working if request.capture_rows for layer in request.captured_layers
        }
        self.monitored_requests = [(index, request) for index, request in working if len(request.monitored)]

    def __bool__(self) -> bool:
        return bool(self.live)

    def advance(self, step: Step) -> None:
        """Mark the step's positions as computed."""
        np.maximum(self.computed_to, step.n_computed + step.n_scheduled, out=self.computed_to)

    def settle(self, only: LiveRequest | None = None) -> None:
        """Update the computed position of each request, or of one."""
        for index, request in self.live if only is None else [(self._index.get(id(only), -1), only)]:
            if index >= 0:
                request.computed_to = int(self.computed_to[index])


def _joined(parts: Sequence[tuple[int, np.ndarray]], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """All items of all requests, and the place of the request that owns each."""
    owners = np.array([index for index, _ in parts], dtype=np.int64)
    items = np.concatenate([np.empty(0, dtype=dtype), *(part for _, part in parts)])
    return items, np.repeat(owners, [len(part) for _, part in parts])
