"""Commits the rows of a run, in batches and off the event loop."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from trait_client.results import ResultWriter
from trait_client.results.rows import Row

T = TypeVar("T")

FLUSH_SECONDS = 0.5
FLUSH_ROWS = 200
SNAPSHOT_SECONDS = 3.0
SNAPSHOT_SHARE = 0.1
"""Largest share of the time spent on snapshots: a big database is copied less often."""


class Recorder:
    """Buffers rows and commits them every 0.5 s, or sooner when 200 are waiting; then publishes a snapshot when due.

    Everything that touches the database runs on one thread.

    Args:
        writer: The database.
        on_commit: Called on the event loop with the rows of each commit.
    """

    def __init__(self, writer: ResultWriter, on_commit: Callable[[list[Row]], None]) -> None:
        self._writer = writer
        self._on_commit = on_commit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="results")
        self._buffer: list[Row] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._next_snapshot = 0.0
        self._closing = False

    def put(self, rows: Sequence[Row]) -> None:
        """Add rows to the next commit; rows of one call are committed together."""
        self._buffer.extend(rows)
        self._idle.clear()
        if len(self._buffer) >= FLUSH_ROWS:
            self._wake.set()

    def call(self, function: Callable[..., T], *arguments: Any) -> Awaitable[T]:
        """Run a function of the writer on its thread."""
        return asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def run(self) -> None:
        """Commit until closed.

        Raises:
            duckdb.Error: A commit failed; rows that were not reported as committed are not stored.
        """
        while not (self._closing and not self._buffer):
            await self._wait()
            await self._flush()
            if time.monotonic() >= self._next_snapshot:
                started = time.monotonic()
                await self.call(self._writer.publish_snapshot)
                spent = time.monotonic() - started
                self._next_snapshot = started + max(SNAPSHOT_SECONDS, spent / SNAPSHOT_SHARE)

    async def run_beside(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` while committing the rows that it puts; a failed commit ends both.

        Raises:
            duckdb.Error: A commit failed.
        """
        recording = asyncio.create_task(self.run())
        working = asyncio.create_task(work)
        try:
            await asyncio.wait({recording, working}, return_when=asyncio.FIRST_COMPLETED)
            if recording.done():
                await recording
            return await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            self.close()
            await recording

    async def drained(self) -> None:
        """Wait until all rows are committed."""
        self._wake.set()
        await self._idle.wait()

    def close(self) -> None:
        """Let `run` return once the buffer is committed."""
        self._closing = True
        self._wake.set()

    async def _wait(self) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), FLUSH_SECONDS)
        except TimeoutError:
            pass
        finally:
            self._wake.clear()

    async def _flush(self) -> None:
        if rows := self._buffer:
            self._buffer = []
            await self.call(self._writer.write, rows)
            self._on_commit(rows)
        if not self._buffer:
            self._idle.set()
