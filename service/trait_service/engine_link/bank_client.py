"""Rows of the worker's vector bank, lent to requests while they run.

The bank has a fixed number of rows and no policy; this is the policy. A direction stays in the bank while a request
uses it, then until its row is needed (least recently used first). Requests that find the bank full wait in order of
arrival. One call to the workers serves every request that waits, and puts and drops together.
"""

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from trait_core.errors import InvalidRequestError

logger = logging.getLogger(__name__)

Upload = Callable[[dict[str, bytes], list[str]], Awaitable[None]]
"""`(put, drop)`: drops rows, then puts directions (sha256 hex -> float32 bytes) into the bank of every worker.

Dropping a direction that is not in the bank, or putting one that is, must be harmless.
"""


@dataclass(eq=False)
class _Waiter:
    directions: Mapping[str, bytes]
    granted: asyncio.Future[None]


class BankClient:
    """Lends rows of the vector bank.

    Args:
        upload: Changes the bank in the workers.
        rows: Rows of the bank.
    """

    def __init__(self, upload: Upload, rows: int) -> None:
        self._upload = upload
        self.rows = rows
        self._references: Counter[str] = Counter()
        self._resident: set[str] = set()
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._suspect: set[str] = set()
        self._waiting: deque[_Waiter] = deque()
        self._pump: asyncio.Task[None] | None = None

    @property
    def held(self) -> int:
        """Directions that running requests use."""
        return len(self._references)

    @property
    def resident(self) -> int:
        """Directions in the bank, unused ones too."""
        return len(self._resident)

    @asynccontextmanager
    async def acquire(self, directions: Mapping[str, bytes]) -> AsyncIterator[None]:
        """Hold `directions` (sha256 hex -> float32 bytes) in the bank inside the block; waits while it is full.

        Raises:
            InvalidRequestError: More directions than the bank has rows.
        """
        if len(directions) > self.rows:
            raise InvalidRequestError(
                f"the request uses {len(directions)} directions; the vector bank holds {self.rows} (--bank-rows)",
                param="steering",
            )
        if not self._waiting and self._resident.issuperset(directions):
            self._reference(directions)
        else:
            await self._wait(directions)
        try:
            yield
        finally:
            self._release(directions)

    async def _wait(self, directions: Mapping[str, bytes]) -> None:
        waiter = _Waiter(directions, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._start_pump()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._start_pump()
            elif waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self._release(directions)
            raise

    def _start_pump(self) -> None:
        if self._waiting and (self._pump is None or self._pump.done()):
            self._pump = asyncio.create_task(self._serve_waiting())

    async def _serve_waiting(self) -> None:
        """Grant the head of the queue, as many requests as fit, until it is empty or blocked."""
        while batch := self._take_fitting():
            put = {name: raw for w in batch for name, raw in w.directions.items() if name not in self._resident}
            drop = self._evict(len(put))
            if put or drop:
                try:
                    await self._upload(put, drop)
                except Exception as error:  # noqa: BLE001 - handed to every request of the batch
                    self._forget(batch, put, error)
                    continue
                self._suspect.difference_update(drop)
            self._resident.update(put)
            for waiter in batch:
                if waiter.granted.cancelled():
                    self._release(waiter.directions)
                else:
                    waiter.granted.set_result(None)

    def _take_fitting(self) -> list[_Waiter]:
        batch: list[_Waiter] = []
        held = set(self._references)
        while self._waiting:
            waiter = self._waiting[0]
            if not waiter.granted.cancelled():
                if len(held | waiter.directions.keys()) > self.rows:
                    break
                held |= waiter.directions.keys()
                self._reference(waiter.directions)
                batch.append(waiter)
            self._waiting.popleft()
        return batch

    def _evict(self, needed: int) -> list[str]:
        """Directions to drop so that `needed` rows are free; rows in an unknown state always go."""
        drop = sorted(self._suspect)
        while len(self._resident) + needed > self.rows:
            name, _ = self._idle.popitem(last=False)
            self._resident.discard(name)
            self._suspect.add(name)
            drop.append(name)
        return drop

    def _forget(self, batch: list[_Waiter], put: dict[str, bytes], error: Exception) -> None:
        """An upload failed: nothing of it counts as resident, and the next upload drops its rows first."""
        logger.warning("vector bank upload of %d directions failed: %s", len(put), error)
        self._suspect.update(put)
        for waiter in batch:
            self._release(waiter.directions, pump=False)
            if not waiter.granted.done():
                waiter.granted.set_exception(error)

    def _reference(self, directions: Mapping[str, bytes]) -> None:
        for name in directions:
            self._references[name] += 1
            self._idle.pop(name, None)

    def _release(self, directions: Mapping[str, bytes], *, pump: bool = True) -> None:
        for name in directions:
            self._references[name] -= 1
            if self._references[name] == 0:
                del self._references[name]
                if name in self._resident:
                    self._idle[name] = None
        if pump:
            self._start_pump()
