"""Scores replies in batches while others are generated."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trait_client.http import AsyncTraitClient
from trait_client.results.recorder import Recorder
from trait_client.results.rows import ProjectionRow, ScoreRow
from trait_client.scoring import scores
from trait_client.scoring.lexical import Metric
from trait_client.sweeps.cells import Trial
from trait_client.sweeps.plan import FROM_TEXT, Key, ProjectionKey, ScoreKey, SweepPlan
from trait_core.errors import ServiceError, ServiceUnreachableError, TraitError
from trait_core.schema import NO_ADAPTER, HookPoint
from trait_core.vectors.file import VectorFile

logger = logging.getLogger(__name__)

BATCH_REPLIES = 32
BATCH_SECONDS = 1.0
READERS = 2
"""Batches read at once; one is tokenised and scored while the other is in the engine."""


@dataclass(frozen=True)
class Unscored:
    """A stored reply and its missing scores."""

    trial: Trial
    text: str
    missing: frozenset[Key]

    @property
    def needs_reading(self) -> bool:
        """True if the model must read the reply back."""
        return not scores.is_empty(self.text) and any(
            not (isinstance(key, ScoreKey) and key.name in FROM_TEXT) for key in self.missing
        )


class Scoring:
    """Takes stored replies, reads them back unsteered, and records their scores.

    Args:
        client: The service.
        recorder: Takes the rows; all rows of a reply are committed together.
        plan: Vectors and metrics.
        max_inputs: Maximum inputs of one request.

    Attributes:
        errors: Messages of batches that could not be read, with their counts.
    """

    def __init__(self, client: AsyncTraitClient, recorder: Recorder, plan: SweepPlan, max_inputs: int) -> None:
        self.errors: Counter[str] = Counter()
        self._client = client
        self._recorder = recorder
        self._plan = plan
        self._batch = max(1, min(BATCH_REPLIES, max_inputs // 2))
        self._queue: asyncio.Queue[Unscored | None] = asyncio.Queue()

    def put(self, reply: Unscored) -> None:
        """Add a reply to one of the next batches."""
        self._queue.put_nowait(reply)

    def close(self) -> None:
        """Let `run` return when all replies are scored."""
        for _ in range(READERS):
            self._queue.put_nowait(None)

    async def run(self) -> None:
        """Score until closed."""
        async with asyncio.TaskGroup() as group:
            for _ in range(READERS):
                group.create_task(self._work())

    async def _work(self) -> None:
        while batch := await self._next_batch():
            to_read = [reply for reply in batch if reply.needs_reading]
            for reader in {self._plan.reader(reply.trial.cell) for reply in to_read}:
                await self._score([r for r in to_read if self._plan.reader(r.trial.cell) == reader], reader)
            for reply in batch:
                if not reply.needs_reading:
                    self._record(reply, None)

    async def _next_batch(self) -> list[Unscored]:
        """A full batch, or the replies of one second; empty at the end."""
        first = await self._queue.get()
        if first is None:
            return []
        batch = [first]
        deadline = asyncio.get_running_loop().time() + BATCH_SECONDS
        while len(batch) < self._batch:
            try:
                async with asyncio.timeout_at(deadline):
                    reply = await self._queue.get()
            except TimeoutError:
                break
            if reply is None:
                self._queue.put_nowait(None)
                break
            batch.append(reply)
        return batch

    async def _score(self, batch: Sequence[Unscored], reader: str) -> None:
        """Read a batch back; a refused batch is halved, so that one bad reply cannot block the others."""
        replies = [_reply(r) for r in batch]
        layers: dict[HookPoint, set[int]] = {}
        for key in (key for r in batch for key in r.missing if isinstance(key, ProjectionKey)):
            layers.setdefault(self._file(key).metadata.hook_point, set()).add(key.layer)
        try:
            readings = await scores.read_replies(
                self._client, replies, layers, None if reader == NO_ADAPTER else reader
            )
        except TraitError as error:
            refused = isinstance(error, ServiceError) and not isinstance(error, ServiceUnreachableError)
            if refused and len(batch) > 1:
                await self._score(batch[: len(batch) // 2], reader)
                await self._score(batch[len(batch) // 2 :], reader)
                return
            logger.debug("%d replies stay unscored: %s", len(batch), error)
            self.errors[f"scores: {type(error).__name__}: {error}"] += len(batch)
            return
        for reply, reading in zip(batch, readings, strict=True):
            self._record(reply, reading)

    def _file(self, key: ProjectionKey) -> VectorFile:
        return self._plan.vectors[key.sha256].file

    def _record(self, reply: Unscored, reading: scores.Reading | None) -> None:
        self._recorder.put([self._row(reply, key, reading) for key in reply.missing])

    def _row(self, reply: Unscored, key: Key, reading: scores.Reading | None) -> ScoreRow | ProjectionRow:
        trial_id = reply.trial.trial_id
        if isinstance(key, ScoreKey):
            value = _score_value(
                key, reply.text, reading, self._plan.evaluations[key.trait].metric if key.name == "lexical" else None
            )
            reader = None if key.name in FROM_TEXT else self._plan.reader(reply.trial.cell)
            return ScoreRow(trial_id, key.trait, key.name, value, key.definition, reader=reader)
        value = None
        if reading is not None:
            file = self._file(key)
            mean = reading.means[file.metadata.hook_point][key.layer]
            value = scores.projection(mean, file.directions[key.layer], file.evidence(key.layer).centre)
        return ProjectionRow(trial_id, key.sha256, key.layer, scores.POSITIONS, value, key.reader)


def _reply(unscored: Unscored) -> scores.Reply:
    sampling = unscored.trial.cell.sampling
    return scores.Reply(unscored.trial.prompt, unscored.text, sampling.system, sampling.raw, sampling.template_kwargs)


def _score_value(key: ScoreKey, text: str, reading: scores.Reading | None, metric: Metric | None) -> float | None:
    if metric is not None:
        return metric.score(text)
    if key.name == "distinct3":
        return None if scores.is_empty(text) else scores.distinct3(text)
    if key.name == "coherence":
        return 0.0 if reading is None else scores.coherence(text, reading.nll)
    if reading is None:
        return None
    return reading.relevance if key.name == "relevance" else reading.perplexity
