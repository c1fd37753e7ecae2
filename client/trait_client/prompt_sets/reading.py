"""Readings of `run_project`: a prompt with a given, generated or stored response, projected token by token."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from trait_client.http import AsyncTraitClient
from trait_client.http.replies import ChatResult
from trait_client.prompt_sets.prompts import SetPrompt
from trait_client.results.rows import ReadingProjectionRow, ReadingRow, Row, utc_now
from trait_core.chat_templates import kwargs_text
from trait_core.errors import ServiceError
from trait_core.schema import Monitor, MonitoredChoice, MonitorReport, ServiceInfo


class Direction(NamedTuple):
    """A vector on a layer."""

    sha256: str
    layer: int


class StoredReading(NamedTuple):
    """The stored part of a reading."""

    n_response: int
    token_ids: list[int]
    directions: set[Direction]


class _Read(NamedTuple):
    """A new reading: its row, the projections by position, and the report that names their columns."""

    row: ReadingRow | None
    rows: list[list[float]]
    report: MonitorReport


class PromptReader:
    """Reads prompts through the service.

    The service tokenises a prompt; it is sent as token ids, with its response if one is given. So the border between prompt
    and response is exact, and the tokens are those that `POST /v1/activations` would read.

    Args:
        client: The service.
        info: The service's description of itself.
        run_id: Id of the run in the table `runs`.
        layers: 0-based decoder blocks; None uses each vector file's recommended layer.
        max_tokens: Maximum tokens of a reply that is generated where none is given; None reads the prompt alone.
        chat_template_kwargs: Variables of the chat template.
        adapter: LoRA adapter that reads; None is the service's base model.
        tokeniser: Service that renders and tokenises prompts, if it is another one.
    """

    def __init__(
        self,
        client: AsyncTraitClient,
        info: ServiceInfo,
        run_id: str,
        *,
        layers: list[int] | None,
        max_tokens: int | None,
        chat_template_kwargs: dict[str, Any] | None = None,
        adapter: str | None = None,
        tokeniser: AsyncTraitClient | None = None,
    ) -> None:
        self._client = client
        self._adapter = adapter
        self._tokeniser = tokeniser or client
        self._info = info
        self._run_id = run_id
        self._layers = layers
        self._max_tokens = max_tokens
        self._template_kwargs = chat_template_kwargs

    async def read(
        self, reading_id: str, prompt: SetPrompt, missing: Sequence[Direction], stored: StoredReading | None
    ) -> list[Row]:
        """Rows of one reading: the reading itself, unless it is stored, and its projection on each direction.

        Args:
            reading_id: Id of the reading in the database.
            prompt: The prompt.
            missing: Directions to project on.
            stored: The reading of an earlier run, if there is one.

        Raises:
            ServiceError: The service refuses the prompt, or its answer does not fit the request.
        """
        monitor = Monitor(
            vectors=list(dict.fromkeys(direction.sha256 for direction in missing)),
            layers=self._layers,
            tokens=stored is None,
            bounds=[],
        )
        if stored is not None:
            read = await self._read_again(stored, monitor)
        elif prompt.response is None and self._max_tokens is not None:
            read = await self._read_generated(reading_id, prompt, monitor, self._max_tokens)
        else:
            read = await self._read_given(reading_id, prompt, monitor)
        return [*([read.row] if read.row is not None else []), *_projections(reading_id, missing, read)]

    async def read_same(self, reading_id: str, of: ReadingRow, missing: Sequence[Direction]) -> list[Row]:
        """Rows of a reading of the tokens of another model's reading.

        Args:
            reading_id: Id of the new reading.
            of: The other model's reading.
            missing: Directions to project on.

        Raises:
            ServiceError: The service refuses the tokens, or its answer does not fit the request.
        """
        vectors = list(dict.fromkeys(direction.sha256 for direction in missing))
        monitor = Monitor(vectors=vectors, layers=self._layers, bounds=[])
        read = await self._read_again(StoredReading(of.n_response, of.token_ids, set()), monitor)
        row = dataclasses.replace(of, reading_id=reading_id, run_id=self._run_id, **self._reader_fields())
        return [row, *_projections(reading_id, missing, read)]

    def _reader_fields(self) -> dict[str, Any]:
        """Columns that say which model read, and when."""
        info, adapter = self._info, self._adapter
        return {
            "model": info.model,
            "config_digest": info.config_digest,
            "adapter": adapter,
            "weights_digest": info.checkpoint_digest if adapter is None else info.adapters.get(adapter),
            "finished_at": utc_now(),
        }

    async def _read_again(self, stored: StoredReading, monitor: Monitor) -> _Read:
        result = await self._client.complete(stored.token_ids, monitor=monitor, max_tokens=1, model=self._adapter)
        choice, report = _monitored(result)
        return _Read(None, _aligned(choice.prompt, len(stored.token_ids), stored.n_response), report)

    async def _read_given(self, reading_id: str, prompt: SetPrompt, monitor: Monitor) -> _Read:
        """Read a prompt with the response that the prompt set gives."""
        prompt_ids = await self._prompt_ids(prompt)
        response_ids = []
        if prompt.response is not None:
            response_ids = await self._tokeniser.tokenize(prompt.response, add_special_tokens=False)
        ids = [*prompt_ids, *response_ids]
        result = await self._client.complete(ids, monitor=monitor, max_tokens=1, model=self._adapter)
        choice, report = _monitored(result)
        row = self._row(reading_id, prompt, prompt.response, len(prompt_ids), ids, choice.prompt_tokens)
        return _Read(row, _aligned(choice.prompt, len(ids), len(response_ids)), report)

    async def _read_generated(self, reading_id: str, prompt: SetPrompt, monitor: Monitor, max_tokens: int) -> _Read:
        """Read a prompt and generate its reply."""
        prompt_ids = await self._prompt_ids(prompt)
        result = await self._client.complete(
            prompt_ids, monitor=monitor, max_tokens=max_tokens, token_ids=True, model=self._adapter
        )
        choice, report = _monitored(result)
        response_ids = result.choices[0].token_ids
        if response_ids is None or len(response_ids) != len(choice.generated):
            raise ServiceError(f"{len(choice.generated)} projections came with the token ids {response_ids}")
        ids = [*prompt_ids, *response_ids]
        tokens = [*(choice.prompt_tokens or ()), *(choice.generated_tokens or ())]
        row = dataclasses.replace(
            self._row(reading_id, prompt, result.text, len(prompt_ids), ids, tokens),
            max_tokens=max_tokens,
            finish_reason=result.finish_reason,
        )
        # The first generated row repeats the last prompt position.
        return _Read(row, _aligned([*choice.prompt, *choice.generated[1:]], len(ids), len(response_ids)), report)

    async def _prompt_ids(self, prompt: SetPrompt) -> list[int]:
        if prompt.text is not None:
            return await self._tokeniser.tokenize(prompt.text)
        return await self._tokeniser.tokenize(prompt.messages or (), chat_template_kwargs=self._template_kwargs)

    def _row(
        self,
        reading_id: str,
        prompt: SetPrompt,
        response: str | None,
        n_prompt: int,
        ids: list[int],
        tokens: list[str] | None,
    ) -> ReadingRow:
        if tokens is None or len(tokens) != len(ids):
            raise ServiceError(f"{len(tokens or ())} token texts came for {len(ids)} tokens")
        messages = prompt.content()["messages"]
        return ReadingRow(
            reading_id=reading_id,
            run_id=self._run_id,
            prompt_id=prompt.prompt_id,
            outcome=prompt.outcome,
            messages=None if messages is None else json.dumps(messages, ensure_ascii=False),
            text=prompt.text,
            response=response,
            given=prompt.response is not None,
            max_tokens=None,
            finish_reason=None,
            n_prompt=n_prompt,
            n_response=len(ids) - n_prompt,
            token_ids=ids,
            tokens=tokens,
            chat_template_kwargs=None if messages is None else kwargs_text(self._template_kwargs),
            **self._reader_fields(),
        )


def _projections(reading_id: str, missing: Sequence[Direction], read: _Read) -> list[ReadingProjectionRow]:
    """Rows of the projections; the columns of the report are found by vector and layer."""
    columns = {Direction(d.sha256, d.layer): (i, d.centre) for i, d in enumerate(read.report.directions)}
    if not columns.keys() >= set(missing):
        raise ServiceError(f"the service projected on {sorted(columns)}, and not on {sorted(missing)}")
    return [
        ReadingProjectionRow(
            reading_id=reading_id,
            sha256=direction.sha256,
            layer=direction.layer,
            centre=columns[direction][1],
            projected=[row[columns[direction][0]] for row in read.rows],
        )
        for direction in missing
    ]


def _monitored(result: ChatResult) -> tuple[MonitoredChoice, MonitorReport]:
    report = result.monitor
    if report is None or len(report.choices) != 1:
        raise ServiceError("the answer does not hold one reply's projections")
    return report.choices[0], report


def _aligned(rows: list[list[float]], n_tokens: int, n_response: int) -> list[list[float]]:
    """Rows by position, without a response's last token: no token was produced from it."""
    wanted = n_tokens - 1 if n_response else n_tokens
    if not wanted <= len(rows) <= n_tokens:
        raise ServiceError(f"{len(rows)} projections came for {n_tokens} tokens")
    return rows[:wanted]
