"""Room among the engine's rows for requests with a lens, so that none fails in the worker, and the texts of their tokens."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trait_service.engine.spec import RequestSpec
from trait_service.engine_link.capture_slots import CaptureSlots
from trait_service.resolving.stream_lens import LensLimits, TokenText


class LensRoom:
    """Lets requests with a lens through in order of arrival while there is room for what they read.

    Args:
        limits: Layers that the lens can read, and how many at once.
        rows: The worker's capture rows: each completion takes one, as each pool of a capture does.
        token_text: Text of a token id.
    """

    def __init__(self, limits: LensLimits, rows: CaptureSlots, token_text: TokenText) -> None:
        self.limits = limits
        self.rows = rows
        self.token_text = token_text
        self._readings = CaptureSlots(limits.max_readings)

    @asynccontextmanager
    async def of(self, spec: RequestSpec) -> AsyncIterator[None]:
        """Hold a request's room inside the block; wait until there is some. Without a lens it needs none."""
        if spec.lens is None:
            yield
            return
        async with self._readings.take(len(spec.lens.layers) * spec.n), self.rows.take(spec.n):
            yield
