"""The live requests of one batch as arrays, and where their intervals lie in a step. No Python loop over tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch

from trait_service.engine.buffers import NO_ROW
from trait_service.engine.capture_rows import CaptureRows
from trait_service.engine.gates import GATE
from trait_service.engine.requests import TERM, LiveRequest
from trait_service.engine.runner_view import StepView


@dataclass(frozen=True)
class Step:
    """The tokens of one forward pass: request `i` has `n_scheduled[i]` of them from `first_place[i]` on.

    Args:
        n_computed: `(n_requests,)` absolute position of each request's first token in this step.
        n_scheduled: `(n_requests,)`.
        first_place: `(n_requests,)` row of that token in the hidden states.
        n_tokens: Number of tokens of all requests.
        input_ids: `(n_tokens,)` or longer, on the device: the tokens; None: not known.
    """

    n_computed: np.ndarray
    n_scheduled: np.ndarray
    first_place: np.ndarray
    n_tokens: int
    input_ids: torch.Tensor | None = None

    @classmethod
    def of(cls, view: StepView) -> Self:
        """The step that a view describes."""
        ends = np.cumsum(view.n_scheduled)
        n_tokens = int(ends[-1]) if len(ends) else 0
        return cls(view.n_computed, view.n_scheduled, ends - view.n_scheduled, n_tokens, view.input_ids)


class Spans(NamedTuple):
    """For each item: its first place in the step, how many tokens of the step it holds on, and their distance, if not 1.

    All `(n_items,)`.
    """

    place: np.ndarray
    length: np.ndarray
    step: np.ndarray | None = None

    def places(self) -> np.ndarray:
        """All places, item after item."""
        if (self.length == 1).all():
            return self.place
        before = np.cumsum(self.length) - self.length
        if self.step is None:
            return np.repeat(self.place - before, self.length) + np.arange(int(self.length.sum()))
        index = np.arange(int(self.length.sum())) - np.repeat(before, self.length)
        return np.repeat(self.place, self.length) + index * np.repeat(self.step, self.length)

    @property
    def last(self) -> np.ndarray:
        """The last place of each item that holds on any."""
        return self.place + (self.length - 1) * (1 if self.step is None else self.step)

    def part(self, items: slice) -> "Spans":
        """Those of some items."""
        return Spans(self.place[items], self.length[items], None if self.step is None else self.step[items])

    def each(self, values: np.ndarray) -> np.ndarray:
        """`(n_items,)` values of the items, repeated for each of their places."""
        return values if (self.length == 1).all() else np.repeat(values, self.length)


@dataclass(frozen=True)
class Intervals:
    """Things that hold on absolute positions of the request at place `owner` of the batch.

    Args:
        owner: `(n_items,)`.
        start: `(n_items,)` the first position.
        stop: `(n_items,)` one past the last.
        step: `(n_items,)` distance of two positions; None: 1 for all.
    """

    owner: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    step: np.ndarray | None = None

    @classmethod
    def of(cls, owner: np.ndarray, start: np.ndarray, stop: np.ndarray, step: np.ndarray) -> Self:
        """As the constructor; steps that are all 1 are dropped, since they cost time in each step."""
        return cls(owner, start, stop, step if (step > 1).any() else None)

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
        if self.step is None:
            return Spans(step.first_place[self.owner] + first - computed, np.maximum(last - first, 0))
        first += (self.start - first) % self.step
        length = np.maximum(-((first - last) // self.step), 0)
        return Spans(step.first_place[self.owner] + first - computed, length, self.step)


@dataclass(frozen=True)
class Pools:
    """Pools of a batch, an entry for each of their intervals, which are disjoint.

    Args:
        intervals: Positions of each.
        row: `(n_entries,)` its row of the running sums.
        n_prompt: `(n_entries,)` its request's prompt length.
    """

    intervals: Intervals
    row: np.ndarray
    n_prompt: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def note(self, step: Step, computed_to: np.ndarray, rows: CaptureRows) -> tuple[Spans, np.ndarray]:
        """Raise the counts of the pools' rows by a step, and note which positions wait.

        Args:
            step: The step.
            computed_to: `(n_requests,)`: positions below were counted before.
            rows: The running sums.

        Returns:
            The entries' new places in the step, and `(n_entries,)` bool: whether the last of them waits.
        """
        fresh = self.intervals.spans(step, after=computed_to)
        rows.count(self.row, fresh.length)
        if not rows.deferred:
            return fresh, np.zeros(len(self.row), dtype=np.bool_)
        owner = self.intervals.owner
        end = step.n_scheduled[owner]
        position = step.n_computed[owner] + end - 1
        holds_last = (fresh.length > 0) & (fresh.last + 1 == step.first_place[owner] + end)
        waits = holds_last & (position >= self.n_prompt)
        rows.defer(self.row[waits], position[waits])
        return fresh, waits


class LiveBatch:
    """The requests of the current batch that ask for something.

    Args:
        size: Requests in the runner's batch.
        live: Place in the runner's batch, row, and request.
    """

    def __init__(self, size: int, live: Sequence[tuple[int, int, LiveRequest]]) -> None:
        self.live = [(index, request) for index, _, request in live]
        self.places = np.array([index for index, _ in self.live], dtype=np.int64)
        self.rows = np.full(size, NO_ROW, dtype=np.int32)
        self.rows[self.places] = [row for _, row, _ in live]
        self.computed_to = np.zeros(size, dtype=np.int64)
        self.computed_to[self.places] = [request.computed_to for _, request in self.live]
        # Work of a request that failed is left out, but not its terms: a request with equal steering may read its
        # blocks from the prefix cache.
        working = [(index, request) for index, request in self.live if request.error is None]
        self.monitored_requests = [(index, request) for index, request in working if request.monitored is not None]
        self.capturing_requests = [(index, request) for index, request in working if request.capture_rows]
        # Those that failed too: all tensor-parallel ranks must read the same ones.
        self.lens_requests = [(index, request) for index, request in self.live if request.lens_layers]

    def __bool__(self) -> bool:
        return bool(self.live)

    @cached_property
    def _index(self) -> dict[int, int]:
        return {id(request): index for index, request in self.live}

    @cached_property
    def terms(self) -> tuple[np.ndarray, np.ndarray]:
        """All terms, and the place of the request that owns each."""
        return joined([(index, request.terms) for index, request in self.live], TERM)

    @cached_property
    def gates(self) -> tuple[np.ndarray, np.ndarray]:
        """All gates, and the place of the request that owns each."""
        return joined([(index, request.gates) for index, request in self.live], GATE)

    @cached_property
    def gated_requests(self) -> list[tuple[int, LiveRequest]]:
        """Requests whose terms depend on the words of their tokens, each after its place."""
        return [(index, request) for index, request in self.live if request.reads_words]

    @cached_property
    def selecting_requests(self) -> list[tuple[int, LiveRequest]]:
        """Requests with selectors of their reply, each after its place."""
        return [(index, request) for index, request in self.live if request.selectors]

    @cached_property
    def _holding(self) -> np.ndarray:
        """Places of requests with gates that hold a number in their row."""
        return np.array([i for i, request in self.gated_requests if request.holds_number], dtype=np.int64)

    def starting_rows(self, step: Step) -> np.ndarray:
        """`(n,)` int64 rows whose gates' numbers begin anew: their requests are computed from the start."""
        holding = self._holding
        return self.rows[holding[step.n_computed[holding] == 0]].astype(np.int64)

    @cached_property
    def bounded_requests(self) -> list[tuple[int, LiveRequest]]:
        """Monitored requests with bounds, each after its place."""
        return [(index, request) for index, request in self.monitored_requests if request.has_bounds]

    def advance(self, step: Step) -> None:
        """Mark the step's positions as computed."""
        np.maximum(self.computed_to, step.n_computed + step.n_scheduled, out=self.computed_to)

    def settle(self, only: LiveRequest | None = None) -> None:
        """Update the computed position of each request, or of one."""
        if only is not None:
            index = self._index.get(id(only))
            if index is not None:
                only.computed_to = int(self.computed_to[index])
            return
        for (_, request), computed_to in zip(self.live, self.computed_to[self.places].tolist(), strict=True):
            request.computed_to = computed_to


def joined(parts: Sequence[tuple[int, np.ndarray]], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """All items of all requests, and the place of the request that owns each.

    By their bytes: numpy compares the fields of every part when it concatenates structured arrays.
    """
    owners = np.array([index for index, _ in parts], dtype=np.int64)
    items = np.frombuffer(b"".join(part.tobytes() for _, part in parts), dtype=dtype)
    return items, np.repeat(owners, [len(part) for _, part in parts])
