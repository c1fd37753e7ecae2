"""The step's active tokens, as the CUDA kernel reads them: those of requests that still ask for something there."""

import numpy as np
import torch

from trait_service.engine.batch import Intervals, Step
from trait_service.engine.buffers import Mirrored

CAPTURE, DEFER, GATED = 1, 2, 4
"""Bits of a token: its pools count it, since it was not computed before; it waits (`CaptureRows`); its request has gates."""

NO_POSITION = -1


class ActiveTokens:
    """A compact list on the device; its length is read there, so that a CUDA graph serves any batch.

    Attributes:
        tensor: `(1 + max_tokens, 4)` int32. Entry 0 begins with the number of active tokens. Each further entry: place in
            the step, row of the request table, absolute position, bits.
        n: Number of active tokens.

    Args:
        max_tokens: The most tokens in one step.
        device: Where the list is read.
    """

    def __init__(self, max_tokens: int, device: torch.device) -> None:
        self._list = Mirrored((1 + max_tokens, 4), np.int32, device)
        self.tensor = self._list.tensor
        self.n = 0

    def fill(
        self,
        step: Step,
        asking: Intervals,
        row: np.ndarray,
        computed_to: np.ndarray,
        waits_from: np.ndarray,
        gated: np.ndarray,
    ) -> None:
        """List the tokens of a step: one copy to the device, and none if the list was empty and stays so.

        Args:
            step: The step.
            asking: The positions on which each request asks for something; one interval a request.
            row: `(n_asking,)` each request's row of the table.
            computed_to: `(n_asking,)` absolute positions below were computed before.
            waits_from: `(n_asking,)` absolute position from which on the last token of the step waits.
            gated: `(n_asking,)` int64, `GATED` for requests with gates, else 0.
        """
        spans = asking.spans(step)
        place = spans.places()
        n = len(place)
        if n == self.n == 0:
            return
        owner = asking.owner
        position = place + spans.each(step.n_computed[owner] - step.first_place[owner])
        last = step.n_computed[owner] + step.n_scheduled[owner] - 1
        waiting_position = np.where(last >= waits_from, last, NO_POSITION)
        entries = self._list.array[1 : n + 1]
        entries[:, 0] = place
        entries[:, 1] = spans.each(row)
        entries[:, 2] = position
        entries[:, 3] = (
            CAPTURE * (position >= spans.each(computed_to))
            + DEFER * (position == spans.each(waiting_position))
            + spans.each(gated)
        )
        self._list.array[0, 0] = self.n = n
        self._list.flush(n + 1)

    def clear(self) -> None:
        """Empty the list."""
        if self.n:
            self._list.array[0, 0] = self.n = 0
            self._list.flush(1)
