"""A judge with its database for the length of a block."""

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
    """A recorder that commits for as long as the block lasts, and everything at its end."""
    recorder = Recorder(writer, lambda _: None)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        recorder.close()
        await task


@asynccontextmanager
async def judging(config: JudgeConfig, store: ResultStore | None) -> AsyncIterator[Judge]:
    """A judge; with a store it looks up and keeps its judgements there, and holds it for writing.

    Raises:
        InvalidRequestError: The variable of the key is not set.
        ResultsError: Another process writes the database.
    """
    if store is None:
        async with Judge(config) as judge:
            yield judge
        return
    with store.writer() as writer:
        async with recording(writer) as recorder, Judge(config, DatabaseCache(writer, recorder)) as judge:
            yield judge
