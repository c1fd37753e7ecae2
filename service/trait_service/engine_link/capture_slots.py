"""Limits the pools that captures fill at once, so that none fails in the worker because no row is free."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class CaptureSlots:
    """Lets requests through in order of arrival while the worker has rows for their pools.

    Args:
        size: The worker's capture rows.
    """

    def __init__(self, size: int) -> None:
        self._free = self._size = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def take(self, n: int) -> AsyncIterator[None]:
        """Hold `n` rows inside the block; wait until they are free."""
        n = min(n, self._size)
        if self._waiting or self._free < n:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((n, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give(n)
                raise
        else:
            self._free -= n
        try:
            yield
        finally:
            self._give(n)

    def _give(self, n: int) -> None:
        self._free += n
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            wanted, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= wanted
                turn.set_result(None)
