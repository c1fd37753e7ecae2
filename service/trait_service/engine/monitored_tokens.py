"""The tokens that a step projects: those of requests with the same directions follow one another, for one matrix product."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from trait_core.intervals import UNBOUNDED

from trait_service.engine.batch import Intervals, LiveBatch, Spans, Step
from trait_service.engine.direction_sets import DirectionSet
from trait_service.engine.requests import LiveRequest


class TokenRows(NamedTuple):
    """Where the monitored tokens of a step are, and the row of each in the step's values. Decode steps of one batch share it.

    Args:
        place: `(n_tokens,)` place of each in the step.
        begin: `(n_requests,)` first row of each request; the requests are those of `MonitoredTokens`.
        end: `(n_requests,)` one past its last row.
        set_begin: `(n_sets,)` first row of each set.
        set_end: `(n_sets,)` one past its last row.
    """

    place: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    set_begin: np.ndarray
    set_end: np.ndarray


class StepTokens(NamedTuple):
    """The monitored tokens of one step.

    Args:
        rows: Their places and rows.
        position: `(n_requests,)` absolute position of each request's first row.
    """

    rows: TokenRows
    position: np.ndarray


class MonitoredTokens:
    """The monitored requests of a batch, by their sets of directions.

    Attributes:
        sets: The distinct sets.
        requests: The requests, set after set.
        width: Directions of the largest set: numbers of a row of the step's values.
        index: `(n_requests,)` place of each request in the batch.
    """

    def __init__(self, batch: LiveBatch) -> None:
        users: dict[DirectionSet, list[tuple[int, LiveRequest]]] = defaultdict(list)
        for index, request in batch.monitored_requests:
            if request.monitored is not None:
                users[request.monitored].append((index, request))
        self.sets = list(users)
        self.requests = [request for found in users.values() for _, request in found]
        self.width = max(map(len, self.sets), default=0)
        self.index = np.array([index for found in users.values() for index, _ in found], dtype=np.int64)
        start = np.array([request.monitored_from for request in self.requests], dtype=np.int64)
        self._intervals = Intervals(self.index, start, np.full_like(start, UNBOUNDED))
        n_users = [len(found) for found in users.values()]
        self._last_user = np.cumsum(n_users, dtype=np.int64) - 1
        self._spans: Spans | None = None

    def on_step(self, step: Step) -> StepTokens | None:
        """The monitored tokens of a step; None if there are none."""
        if not self.requests:
            return None
        spans = self._intervals.spans(step)
        before, self._spans = self._spans, spans
        if before is None or not (
            np.array_equal(before.place, spans.place) and np.array_equal(before.length, spans.length)
        ):
            self._rows = self._rows_of(spans)
        if not len(self._rows.place):
            return None
        return StepTokens(self._rows, np.maximum(step.n_computed[self.index], self._intervals.start))

    def _rows_of(self, spans: Spans) -> TokenRows:
        end = np.cumsum(spans.length)
        set_end = end[self._last_user]
        return TokenRows(spans.places(), end - spans.length, end, np.concatenate([[0], set_end[:-1]]), set_end)
