"""The end of a step: its projections and gates on their way from the device, and the requests that get no more text.

Nothing here holds up the next step: they are read once the device has finished the step that made them.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol, Self

import numpy as np

from trait_service.engine.batch import Step
from trait_service.engine.monitored_tokens import MonitoredTokens, StepTokens
from trait_service.engine.requests import LiveRequest

STEPS_UNREAD = 2
"""Steps that the device may be working on; the values of older ones are read without waiting."""


@dataclass(frozen=True)
class StepVerdict:
    """Requests of one step that get no more text.

    Args:
        failed: Engine ids of requests that could not be steered as asked: their positions were computed unsteered.
        ended: Engine ids of requests that crossed a bound that stops: the token of this step is not theirs.
    """

    failed: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.failed or self.ended)


class StepValues(Protocol):
    """Numbers of a step on their way to the host."""

    def read(self) -> np.ndarray:
        """The numbers; waits for the device.

        Projections are `(n_monitored_tokens, n_directions)` float32, in the order of `StepTokens`; the words of gates are
        `(n_tokens,)` int32.
        """


class Deliverable(Protocol):
    """Part of what a step's requests are told once the device has finished it."""

    def deliver(self) -> None:
        """Hand each request its part; waits for the device."""


@dataclass(eq=False)
class StepProjections:
    """One step's projections.

    Args:
        values: The step's values, on their way.
        requests: Monitored requests.
        begin: `(n_requests,)` each one's first row that is new; positions computed again are left out.
        end: `(n_requests,)` one past its last row.
        position: `(n_requests,)` absolute position of its first new row.
    """

    values: StepValues
    requests: list[LiveRequest]
    begin: np.ndarray
    end: np.ndarray
    position: np.ndarray

    @classmethod
    def of(cls, monitored: MonitoredTokens, tokens: StepTokens, computed_to: np.ndarray, values: StepValues) -> Self:
        """Assign a step's rows to the requests of its batch.

        Args:
            monitored: The monitored requests.
            tokens: Their tokens of the step.
            computed_to: `(n_requests_of_the_batch,)`: positions below were projected before.
            values: Projections of these tokens.
        """
        again = np.maximum(computed_to[monitored.index] - tokens.position, 0)
        return cls(values, monitored.requests, tokens.rows.begin + again, tokens.rows.end, tokens.position + again)

    def deliver(self) -> None:
        """Hand each request its rows."""
        values = self.values.read()
        numbers = zip(self.begin.tolist(), self.end.tolist(), self.position.tolist(), strict=True)
        for request, (begin, end, position) in zip(self.requests, numbers, strict=True):
            if begin < end and request.monitored is not None:
                request.note_projections(request.monitored.columns(values[begin:end]), position)


@dataclass(eq=False)
class StepGates:
    """Which gates were open, and which selectors held, at one step's tokens.

    Args:
        words: The step's words, on their way.
        requests: Requests that read words.
        begin: Place of each one's first token that is new; positions computed again are left out.
        end: One past the place of its last token.
    """

    words: StepValues
    requests: list[LiveRequest]
    begin: list[int]
    end: list[int]

    @classmethod
    def of(
        cls, gated: Sequence[tuple[int, LiveRequest]], step: Step, computed_to: np.ndarray, words: StepValues
    ) -> Self:
        """From the requests that read words, each after its place in the batch; the rest as `StepProjections.of`."""
        index = np.array([index for index, _ in gated])
        place, again = step.first_place[index], np.maximum(computed_to[index] - step.n_computed[index], 0)
        begin, end = (place + again).tolist(), (place + step.n_scheduled[index]).tolist()
        return cls(words, [request for _, request in gated], begin, end)

    def deliver(self) -> None:
        """Hand each request its words."""
        words = self.words.read()
        for request, begin, end in zip(self.requests, self.begin, self.end, strict=True):
            if begin < end:
                request.gate_record.append(words[begin:end])


@dataclass(eq=False)
class LateValues:
    """All that one step's requests are told once the device has finished it."""

    parts: list[Deliverable] = field(default_factory=list)

    def deliver(self) -> None:
        """Hand each request its parts."""
        for part in self.parts:
            part.deliver()


class LateQueue:
    """Steps whose values were not read yet, oldest first. Each is delivered once and in order, by any thread."""

    def __init__(self) -> None:
        self._steps: deque[LateValues] = deque()
        self._lock = Lock()

    def push(self, step: LateValues) -> None:
        """Add the latest step; steps that are done by now are delivered."""
        with self._lock:
            self._steps.append(step)
            while len(self._steps) > STEPS_UNREAD:
                self._steps.popleft().deliver()

    def deliver_to(self, step: LateValues) -> None:
        """Deliver a step and those before it; waits for the device."""
        with self._lock:
            while step in self._steps:
                self._steps.popleft().deliver()

    @contextmanager
    def settled(self, *, everything: bool) -> Iterator[None]:
        """Nothing is delivered inside the block.

        Args:
            everything: Deliver all steps before, and wait for the device; else those stay that no output was made of.
        """
        with self._lock:
            while everything and self._steps:
                self._steps.popleft().deliver()
            yield


@dataclass(frozen=True)
class EndOfStep:
    """One step's end, known once the device has finished it.

    Args:
        failed: Engine ids of the batch's requests that could not be steered as asked.
        bounded: Engine id of each monitored request, the request, and one past its last position in the step.
        late: The step's projections and gates.
        queue: Where they wait.
    """

    failed: list[str]
    bounded: list[tuple[str, LiveRequest, int]]
    late: LateValues
    queue: LateQueue

    def verdict(self) -> StepVerdict:
        """Deliver the step's values, then tell which requests get no more text; waits for the device."""
        if self.late.parts:
            self.queue.deliver_to(self.late)
        ended = [request_id for request_id, request, stop in self.bounded if request.stopped_before(stop)]
        return StepVerdict(self.failed, ended)
