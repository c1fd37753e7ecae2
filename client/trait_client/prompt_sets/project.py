"""`run_project`: project every token of a prompt set, into DuckDB.

For another vector, stored replies are read again by their token ids; nothing is generated twice. More directions than one
request can hold are taken in several passes, in the same way.
"""

import asyncio
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trait_client.http import AsyncTraitClient
from trait_client.http.template_check import check_template
from trait_client.prompt_sets.directions import Direction, chosen_vectors, directions_of, passes
from trait_client.prompt_sets.progress import ProgressCallback, PromptSetProgress
from trait_client.prompt_sets.prompts import SetPrompt, demand_chats, digest_of
from trait_client.prompt_sets.reading import PromptReader, StoredReading
from trait_client.results import ResultStore, ResultWriter
from trait_client.results.recorder import Recorder
from trait_client.results.rows import ReadingLabels, ReadingProjectionRow, Row, VectorRow
from trait_client.results.runs import OutcomeStatus, recorded_run
from trait_core.chat_templates import kwargs_text
from trait_core.errors import ServiceUnreachableError, TraitError
from trait_core.model_identity import ANSWERING_FIELDS, digest
from trait_core.schema import MAX_MONITORED, ServiceInfo


@dataclass(frozen=True)
class ProjectOptions:
    """Vectors, layers and length of replies of a projection.

    Attributes:
        vectors: Registered names, patterns of names such as `tonal.*`, or `sha256:...`.
        layers: 0-based decoder blocks; None uses each vector file's recommended layer.
        max_tokens: Maximum tokens of a reply that is generated where none is given; None reads the prompt alone.
        chat_template_kwargs: Variables of the chat template.
        cosine: Store each token's cosine as well; the tokens are read once more for it.
    """

    vectors: list[str]
    layers: list[int] | None = None
    max_tokens: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    cosine: bool = False


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
        n_directions: Vectors times layers.
        tokens: Tokens read in this run, in each pass.
        seconds: Duration of this run.
        errors: Distinct messages, most frequent first, with their counts.
    """

    run_id: str
    status: OutcomeStatus
    n_prompts: int
    n_resumed: int
    n_projected: int
    n_failed: int
    n_directions: int
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
            f"{self.n_resumed} found in the database{failed}, {self.n_directions} "
            f"{'direction' if self.n_directions == 1 else 'directions'} each ({self.seconds:.1f} s{speed})"
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
        InvalidRequestError: A vector lacks a layer, or no vector fits a pattern.
        ChatTemplateError: The model has no chat template, or the template refuses chats of the set.
        UnknownVectorError: A vector is not registered.
        ServiceError: The service does not answer at the start.
        ResultsError: Another process writes the database.
    """
    info = await client.info()
    vectors = await chosen_vectors(client, options.vectors)
    directions = directions_of(vectors.values(), options.layers)
    demand_chats(prompts, options.chat_template_kwargs)
    chats = [prompt.messages for prompt in prompts if prompt.messages is not None]
    await check_template(client, info, chats, options.chat_template_kwargs)
    definition = dataclasses.asdict(options) | {"command": "project", "prompts": digest_of(prompts)}
    with store.writer() as writer:
        writer.write([VectorRow.of(vector.name, vector.sha256, vector.metadata) for vector in vectors.values()])
        with recorded_run(writer, name, json.dumps(definition), len(prompts)) as run:
            writer.publish_snapshot()
            readings = by_reading(prompts, options, info)
            projection = _Projection(readings, directions, options, client, writer, run.run_id, info, progress)
            run.outcome = outcome = await projection.run()
    return outcome


def by_reading(prompts: Sequence[SetPrompt], options: ProjectOptions, info: ServiceInfo) -> dict[str, SetPrompt]:
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
        self._passes = passes(directions, options.layers, MAX_MONITORED)
        self._n_directions = len(directions)
        self._with_cosines = options.cosine
        self._client = client
        self._writer = writer
        self._run_id = run_id
        self._reader = PromptReader(
            client,
            info,
            run_id,
            layers=options.layers,
            max_tokens=options.max_tokens,
            chat_template_kwargs=options.chat_template_kwargs,
            cosine=options.cosine,
        )
        self._info = info
        self._progress = progress
        self._recorder = Recorder(writer, self._committed)
        self._stored = self._read_stored()
        writer.label_readings({reading_id: _labels(prompts[reading_id]) for reading_id in self._stored})
        self._pending = {
            (number, reading_id): None
            for number in range(len(self._passes))
            for reading_id in prompts
            if self._missing(number, reading_id)
        }
        self._unfinished = {reading_id for _, reading_id in self._pending}
        self._failures: Counter[str] = Counter()
        self._failed: set[str] = set()
        self._stopped = False
        self._pass = 0
        self._done = self._tokens = 0
        self._started = time.monotonic()

    async def run(self) -> ProjectOutcome:
        await self._recorder.run_beside(self._work())
        left = {reading_id for _, reading_id in self._pending}
        return ProjectOutcome(
            run_id=self._run_id,
            status="partial" if left else "ok",
            n_prompts=len(self._prompts),
            n_resumed=len(self._prompts) - len(self._unfinished),
            n_projected=len(self._unfinished - left),
            n_failed=len(self._failed),
            n_directions=self._n_directions,
            tokens=self._tokens,
            seconds=time.monotonic() - self._started,
            errors=tuple(self._failures.most_common()),
        )

    async def _work(self) -> None:
        for number in range(len(self._passes)):
            if number:  # the first pass has made readings
                self._stored = await self._recorder.call(self._read_stored)
            self._pass = number
            wanted = [name for at, name in self._pending if at == number and name not in self._failed]
            pending = iter(wanted)
            async with asyncio.TaskGroup() as group:
                for _ in range(min(2 * self._info.limits.max_num_seqs, len(wanted))):
                    group.create_task(self._take(pending))
            await self._recorder.drained()

    async def _take(self, pending: Iterator[str]) -> None:
        for reading_id in pending:
            if self._stopped:
                return
            prompt, missing = self._prompts[reading_id], self._missing(self._pass, reading_id)
            try:
                self._recorder.put(await self._reader.read(reading_id, prompt, missing, self._stored.get(reading_id)))
            except TraitError as error:
                self._failures[str(error)] += 1
                self._failed.add(reading_id)
                if isinstance(error, ServiceUnreachableError) and not self._stopped:
                    self._stopped = not await self._answers()

    async def _answers(self) -> bool:
        """Return whether the service still answers: one broken connection does not end a run."""
        try:
            await self._client.info()
        except TraitError:
            return False
        return True

    def _missing(self, number: int, reading_id: str) -> list[Direction]:
        """Directions of a pass that a reading lacks."""
        stored = self._stored.get(reading_id)
        return [each for each in self._passes[number] if stored is None or each not in stored.directions]

    def _read_stored(self) -> dict[str, StoredReading]:
        return _stored(self._writer, list(self._prompts), with_cosines=self._with_cosines)

    # -------------------------------------------------------------------------------------------------------- counts

    def _committed(self, rows: Sequence[Row]) -> None:
        projected: dict[str, int] = {}
        for row in rows:
            if isinstance(row, ReadingProjectionRow):
                projected[row.reading_id] = len(row.projected)
        for reading_id in projected:
            del self._pending[self._pass, reading_id]
        self._done += len(projected)
        self._tokens += sum(projected.values())
        if self._progress is not None:
            resumed = len(self._prompts) - len(self._unfinished)
            share = self._done / (self._done + len(self._pending))
            self._progress(
                PromptSetProgress(
                    total=len(self._prompts),
                    done=resumed + int(share * len(self._unfinished)),
                    failed=len(self._failed),
                    tokens=self._tokens,
                    seconds=time.monotonic() - self._started,
                )
            )


def _labels(prompt: SetPrompt) -> ReadingLabels:
    return ReadingLabels(prompt.outcome, prompt.prompt_set, prompt.metadata_json)


def _stored(writer: ResultWriter, reading_ids: list[str], *, with_cosines: bool) -> dict[str, StoredReading]:
    stored = {
        reading_id: StoredReading(n_response, token_ids, set())
        for reading_id, n_response, token_ids in writer.query(
            "SELECT reading_id, n_response, token_ids FROM readings WHERE reading_id IN (SELECT unnest(?::VARCHAR[]))",
            [reading_ids],
        )
    }
    projections = (
        "SELECT reading_id, sha256, layer FROM reading_projections "
        "WHERE reading_id IN (SELECT unnest($ids::VARCHAR[])) AND (cosines IS NOT NULL OR NOT $with_cosines)"
    )
    found = writer.query(projections, {"ids": reading_ids, "with_cosines": with_cosines})
    for reading_id, sha256, layer in found:
        stored[reading_id].directions.add(Direction(sha256, layer))
    return stored
