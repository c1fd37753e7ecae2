"""Context managers for a judge and its database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trait_client.judge.cache import DatabaseCache
from trait_client.judge.config import JudgeConfig
from trait_client.judge.judge import Judge
from trait_client.results import ResultStore, ResultWriter
from trait_client.results.recorder import Recorder


@asynccontextmanager
async def recording(writer: ResultWriter) -> AsyncIterator[Recorder]:
    """A recorder that commits during the block, and the rest at its end."""
    recorder = Recorder(writer, lambda _: None)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        recorder.close()
        await task


@asynccontextmanager
async def judging(config: JudgeConfig, store: ResultStore | None) -> AsyncIterator[Judge]:
    """A judge; with a store, it reads and stores judgements there and holds the store's write lock.

    Raises:
        InvalidRequestError: The environment variable of the key is not set.
        ResultsError: Another process writes the database.
    """
    if store is None:
        async with Judge(config) as judge:
            yield judge
        return
    with store.writer() as writer:
        async with recording(writer) as recorder, Judge(config, DatabaseCache(writer, recorder)) as judge:
            yield judge
