"""The judge as a plain callable, for code without an event loop: checks of generated replies, notebooks."""

import asyncio
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from trait_client.judge.config import JudgeConfig
from trait_client.judge.judge import Judge, JudgeUsage
from trait_client.judge.judgement import JudgeError, Judgement
from trait_client.judge.rubric import COHERENCE, Rubric
from trait_client.judge.session import judging
from trait_client.results import ResultStore
from trait_core.model_identity import digest
from trait_core.traits import default_traits_folder


class TraitJudge:
    """`(trait, prompt, reply) -> score`, 0 to 100: a context manager, callable from any thread.

    ::

        with TraitJudge(JudgeConfig(url=..., model=...)) as judge:
            judge("refusal", prompt, reply)
            judge.score_all([("refusal", prompt, reply), ...])  # concurrently

    Args:
        config: The judge and its limits.
        datasets: Folder of `<category>/<trait>/definition.txt`; None takes `default_traits_folder()`.
        database: Result database that stores judgements; None keeps them until the end of the block.
    """

    def __init__(self, config: JudgeConfig, datasets: Path | None = None, database: Path | None = None) -> None:
        self._config = config
        self._datasets = datasets
        self._store = ResultStore(database) if database is not None else None
        self._rubrics: dict[str, Rubric] = {}
        self._stack = AsyncExitStack()
        self._judge: Judge | None = None

    def __enter__(self) -> Self:
        """Open the judge.

        Raises:
            InvalidRequestError: The environment variable of the key is not set.
            ResultsError: Another process writes the database.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()
        try:
            self._judge = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            asyncio.run_coroutine_threadsafe(self._stack.aclose(), self._loop).result()
        finally:
            self._stop()

    def __call__(self, trait: str, prompt: str, reply: str) -> float:
        """Score one reply; the trait `*` rates coherence.

        Raises:
            JudgeError: The judge gave no score.
            DatasetError: The trait has no rubric.
        """
        return self._submit(trait, prompt, reply).result().value

    def score_all(self, replies: Iterable[tuple[str, str, str]]) -> list[float | None]:
        """Score each `(trait, prompt, reply)`, in order; None if the judge gave no score.

        Raises:
            DatasetError: A trait has no rubric.
        """
        submitted = [self._submit(*reply) for reply in replies]
        return [_value(future) for future in submitted]

    @property
    def name(self) -> str:
        """Model and digest of the settings, without rubrics: scores under different names are not comparable."""
        return f"{self._config.model}/{digest(self._config.asking())[:8]}"

    @property
    def usage(self) -> JudgeUsage:
        """Counts so far."""
        return self._entered.usage

    @property
    def _entered(self) -> Judge:
        if self._judge is None:
            raise RuntimeError("TraitJudge is used outside of its `with` block")
        return self._judge

    def _submit(self, trait: str, prompt: str, reply: str) -> "Future[Judgement]":
        judge = self._entered
        if trait not in self._rubrics:
            own = trait == COHERENCE
            self._rubrics[trait] = (
                Rubric.coherence() if own else Rubric.load(self._datasets or default_traits_folder(), trait)
            )
        return asyncio.run_coroutine_threadsafe(judge.judge(self._rubrics[trait], prompt, reply), self._loop)

    async def _open(self) -> Judge:
        return await self._stack.enter_async_context(judging(self._config, self._store))

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _value(future: "Future[Judgement]") -> float | None:
    try:
        return future.result().value
    except JudgeError:
        return None
