"""`run_project`: project every token of a prompt set, into DuckDB.

For another vector, stored replies are read again by their token ids; nothing is generated twice.
"""

import asyncio
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trait_client.http import AsyncTraitClient
from trait_client.http.template_check import check_template
from trait_client.prompt_sets.progress import ProgressCallback, PromptSetProgress
from trait_client.prompt_sets.prompts import SetPrompt, demand_chats, digest_of
from trait_client.prompt_sets.reading import Direction, PromptReader, StoredReading
from trait_client.results import ResultStore, ResultWriter
from trait_client.results.recorder import Recorder
from trait_client.results.rows import ReadingProjectionRow, Row, VectorRow
from trait_client.results.runs import OutcomeStatus, recorded_run
from trait_core.chat_templates import kwargs_text
from trait_core.errors import InvalidRequestError, ServiceUnreachableError, TraitError
from trait_core.model_identity import ANSWERING_FIELDS, digest
from trait_core.schema import MAX_MONITORED, ServiceInfo, VectorInfo


@dataclass(frozen=True)
class ProjectOptions:
    """Vectors, layers and length of replies of a projection.

    Attributes:
        vectors: Registered names, or `sha256:...`.
        layers: 0-based decoder blocks; None uses each vector file's recommended layer.
        max_tokens: Maximum tokens of a reply that is generated where none is given; None reads the prompt alone.
        chat_template_kwargs: Variables of the chat template.
    """

    vectors: list[str]
    layers: list[int] | None = None
    max_tokens: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None


@dataclass(frozen=True)
class ProjectOutcome:
    """Outcome of a projection.

    Attributes:
        run_id: Its row in the table `runs`.
        status: `partial` if prompts failed; the next run tries them again.
        n_prompts: Prompts in the set.
        n_resumed: Prompts found in the database with all their projections.
        n_projected: Prompts projected by this run.
        n_failed: Prompts that failed in this run.
        tokens: Tokens projected in this run.
        seconds: Duration of this run.
        errors: Distinct messages, most frequent first, with their counts.
    """

    run_id: str
    status: OutcomeStatus
    n_prompts: int
    n_resumed: int
    n_projected: int
    n_failed: int
    tokens: int
    seconds: float
    errors: tuple[tuple[str, int], ...]

    @property
    def line(self) -> str:
        """Status and counts in one line."""
        failed = f", {self.n_failed} failed" if self.n_failed else ""
        speed = f", {self.tokens / self.seconds:.0f} tokens/s" if self.tokens else ""
        return (
            f"{self.status}: {self.n_projected} of {self.n_prompts} prompts projected, "
            f"{self.n_resumed} found in the database{failed} ({self.seconds:.1f} s{speed})"
        )


async def run_project(
    prompts: Sequence[SetPrompt],
    options: ProjectOptions,
    client: AsyncTraitClient,
    store: ResultStore,
    name: str,
    progress: ProgressCallback | None = None,
) -> ProjectOutcome:
    """Project every token of a prompt set that is not in the database yet.

    Prompts are sent concurrently, up to twice what the engine runs at once, and committed as they finish. A prompt
    that the service refuses does not affect the others.

    Args:
        prompts: The prompt set.
        options: Vectors, layers, length of replies.
        client: The service.
        store: The database; it is held for writing until the run is over.
        name: Name of the prompt set, for the table `runs`.
        progress: Called after each commit.

    Raises:
        InvalidRequestError: A vector lacks a layer, or there are too many directions.
        ChatTemplateError: The model has no chat template, or the template refuses chats of the set.
        UnknownVectorError: A vector is not registered.
        ServiceError: The service does not answer at the start.
        ResultsError: Another process writes the database.
    """
    info = await client.info()
    vectors = {vector.sha256: vector for vector in [await client.vector(name) for name in options.vectors]}
    directions = directions_of(vectors.values(), options.layers)
    demand_chats(prompts, options.chat_template_kwargs)
    chats = [prompt.messages for prompt in prompts if prompt.messages is not None]
    await check_template(client, info, chats, options.chat_template_kwargs)
    definition = dataclasses.asdict(options) | {"command": "project", "prompts": digest_of(prompts)}
    with store.writer() as writer:
        writer.write([VectorRow.of(vector.name, vector.sha256, vector.metadata) for vector in vectors.values()])
        with recorded_run(writer, name, json.dumps(definition), len(prompts)) as run:
            writer.publish_snapshot()
            readings = _by_reading(prompts, options, info)
            projection = _Projection(readings, directions, options, client, writer, run.run_id, info, progress)
            run.outcome = outcome = await projection.run()
    return outcome


def directions_of(vectors: Iterable[VectorInfo], layers: list[int] | None) -> list[Direction]:
    """The directions of vectors on layers; None takes each vector file's recommended layer.

    Raises:
        InvalidRequestError: A vector lacks a layer, or there are too many directions for one request.
    """
    directions = []
    for vector in vectors:
        meta = vector.metadata
        for layer in [meta.chosen_layer] if layers is None else layers:
            if layer not in meta.layers:
                raise InvalidRequestError(
                    f"vector {vector.name!r} has no layer {layer}: it has {', '.join(map(str, sorted(meta.layers)))}",
                    param="layers",
                )
            directions.append(Direction(vector.sha256, layer))
    if len(directions) > MAX_MONITORED:
        raise InvalidRequestError(
            f"{len(directions)} directions (vectors times layers) are asked for, at most {MAX_MONITORED} are possible at once: "
            "run the command again with the others, they are added to the same readings",
            param="vectors",
        )
    return directions


def _by_reading(prompts: Sequence[SetPrompt], options: ProjectOptions, info: ServiceInfo) -> dict[str, SetPrompt]:
    """Prompts by reading id, a digest of everything that the reading's tokens and values depend on."""
    model = [getattr(info, name) for name in ANSWERING_FIELDS]
    variables = kwargs_text(options.chat_template_kwargs)
    return {
        digest(
            [
                model,
                prompt.prompt_id,
                prompt.content(),
                options.max_tokens if prompt.response is None else None,
                *([variables] if variables is not None and prompt.messages is not None else []),
            ]
        ): prompt
        for prompt in prompts
    }


class _Projection:
    """State of one run: stored readings, work in progress, and counts."""

    def __init__(
        self,
        prompts: Mapping[str, SetPrompt],
        directions: Sequence[Direction],
        options: ProjectOptions,
        client: AsyncTraitClient,
        writer: ResultWriter,
        run_id: str,
        info: ServiceInfo,
        progress: ProgressCallback | None,
    ) -> None:
        self._prompts = prompts
        self._directions = directions
        self._client = client
        self._run_id = run_id
        self._reader = PromptReader(
            client,
            info,
            run_id,
            layers=options.layers,
            max_tokens=options.max_tokens,
            chat_template_kwargs=options.chat_template_kwargs,
        )
        self._info = info
        self._progress = progress
        self._recorder = Recorder(writer, self._committed)
        self._stored = _stored(writer, list(prompts))
        writer.label_readings({reading_id: prompts[reading_id].outcome for reading_id in self._stored})
        self._pending = [reading_id for reading_id in prompts if self._missing(reading_id)]
        self._failures: Counter[str] = Counter()
        self._stopped = False
        self._done = self._tokens = 0
        self._started = time.monotonic()

    async def run(self) -> ProjectOutcome:
        await self._recorder.run_beside(self._work())
        return ProjectOutcome(
            run_id=self._run_id,
            status="ok" if self._done == len(self._pending) else "partial",
            n_prompts=len(self._prompts),
            n_resumed=len(self._prompts) - len(self._pending),
            n_projected=self._done,
            n_failed=self._failures.total(),
            tokens=self._tokens,
            seconds=time.monotonic() - self._started,
            errors=tuple(self._failures.most_common()),
        )

    async def _work(self) -> None:
        pending = iter(self._pending)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(2 * self._info.limits.max_num_seqs, len(self._pending))):
                group.create_task(self._take(pending))
        await self._recorder.drained()

    async def _take(self, pending: Iterator[str]) -> None:
        for reading_id in pending:
            if self._stopped:
                return
            try:
                self._recorder.put(
                    await self._reader.read(
                        reading_id, self._prompts[reading_id], self._missing(reading_id), self._stored.get(reading_id)
                    )
                )
            except TraitError as error:
                self._failures[str(error)] += 1
                if isinstance(error, ServiceUnreachableError) and not self._stopped:
                    self._stopped = not await self._answers()

    async def _answers(self) -> bool:
        """Return whether the service still answers: one broken connection does not end a run."""
        try:
            await self._client.info()
        except TraitError:
            return False
        return True

    def _missing(self, reading_id: str) -> list[Direction]:
        stored = self._stored.get(reading_id)
        return [direction for direction in self._directions if stored is None or direction not in stored.directions]

    # -------------------------------------------------------------------------------------------------------- counts

    def _committed(self, rows: Sequence[Row]) -> None:
        projected: dict[str, int] = {}
        for row in rows:
            if isinstance(row, ReadingProjectionRow):
                projected[row.reading_id] = len(row.projected)
        self._done += len(projected)
        self._tokens += sum(projected.values())
        if self._progress is not None:
            self._progress(
                PromptSetProgress(
                    total=len(self._prompts),
                    done=len(self._prompts) - len(self._pending) + self._done,
                    failed=self._failures.total(),
                    tokens=self._tokens,
                    seconds=time.monotonic() - self._started,
                )
            )


def _stored(writer: ResultWriter, reading_ids: list[str]) -> dict[str, StoredReading]:
    stored = {
        reading_id: StoredReading(n_response, token_ids, set())
        for reading_id, n_response, token_ids in writer.query(
            "SELECT reading_id, n_response, token_ids FROM readings WHERE reading_id IN (SELECT unnest(?::VARCHAR[]))",
            [reading_ids],
        )
    }
    projections = (
        "SELECT reading_id, sha256, layer FROM reading_projections WHERE reading_id IN (SELECT unnest(?::VARCHAR[]))"
    )
    for reading_id, sha256, layer in writer.query(projections, [reading_ids]):
        stored[reading_id].directions.add(Direction(sha256, layer))
    return stored
