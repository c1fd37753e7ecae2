"""Fetches reports, captures and projections: many requests, one call to the workers at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from trait_core.errors import SteeringFailedError

from trait_service.engine_link.workers import Collected, Rows

Lengths = Mapping[str, Sequence[int]]
"""Key -> generated tokens of each completion."""

Fetch = Callable[[Lengths], Awaitable[dict[str, Collected]]]
Discard = Callable[[Sequence[str]], Awaitable[None]]
Follow = Callable[[dict[str, int]], Awaitable[dict[str, Rows]]]


class NoReportError(SteeringFailedError):
    """The workers have no report of the request."""


class ResultFetcher:
    """Fetches the results of many requests, one call at a time.

    Args:
        fetch: Takes reports and captures from the workers.
        discard: Discards requests in the workers.
        follow: Reads projections of requests that are still running.
    """

    def __init__(self, fetch: Fetch, discard: Discard, follow: Follow) -> None:
        self._fetch = fetch
        self._discard = discard
        self._follow = follow
        self._followed: dict[str, tuple[int, asyncio.Future[Rows]]] = {}
        self._wanted: dict[str, tuple[Sequence[int], asyncio.Future[Collected]]] = {}
        self._unwanted: list[str] = []
        self._task: asyncio.Task[None] | None = None

    async def collect(self, key: str, lengths: Sequence[int]) -> Collected:
        """The workers' results of a finished request.

        Args:
            key: Key of its spec.
            lengths: Generated tokens of each of its completions.

        Raises:
            NoReportError: They have no report of it.
            SteeringFailedError: It failed there.
        """
        _, future = self._wanted.setdefault(key, (lengths, asyncio.get_running_loop().create_future()))
        self._start()
        collected = await future
        if collected.report.error:
            raise SteeringFailedError(f"the engine could not steer as asked: {collected.report.error}")
        return collected

    async def projections(self, key: str, after: int) -> Rows:
        """New projections, and readings of the lens, of a request that still runs; empty if it has just left the engine.

        Args:
            key: Key of its spec.
            after: First absolute position that has not been received.

        Raises:
            SteeringFailedError: The call to the workers failed.
        """
        _, future = self._followed.setdefault(key, (after, asyncio.get_running_loop().create_future()))
        self._start()
        return await future

    def discard(self, key: str) -> None:
        """Discard an aborted request in the workers, soon."""
        self._unwanted.append(key)
        self._start()

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._wanted or self._unwanted or self._followed:
            unwanted, self._unwanted = self._unwanted, []
            wanted, self._wanted = self._wanted, {}
            followed, self._followed = self._followed, {}
            try:
                if unwanted:
                    await self._discard(unwanted)
                seen = await self._follow({key: after for key, (after, _) in followed.items()}) if followed else {}
                found = await self._fetch({key: lengths for key, (lengths, _) in wanted.items()}) if wanted else {}
            except Exception as error:  # noqa: BLE001 - handed to every request that waits
                _fail([*(future for _, future in wanted.values()), *(future for _, future in followed.values())], error)
                continue
            for key, (_, rows) in followed.items():
                if not rows.done():
                    rows.set_result(seen.get(key, Rows()))
            for key, (_, future) in wanted.items():
                if future.done():
                    continue
                if key in found:
                    future.set_result(found[key])
                else:
                    future.set_exception(NoReportError(f"the workers hold no report of request {key}"))


def _fail(waiting: Iterable[asyncio.Future[Any]], error: Exception) -> None:
    for future in waiting:
        if not future.done():
            failure = SteeringFailedError(f"the workers' report could not be fetched: {error}")
            failure.__cause__ = error
            future.set_exception(failure)
