"""Readings of `run_project`: a prompt with a given, generated or stored response, projected token by token."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from trait_client.http import AsyncTraitClient
from trait_client.http.replies import ChatResult
from trait_client.prompt_sets.directions import Direction
from trait_client.prompt_sets.prompts import SetPrompt
from trait_client.results.rows import ReadingProjectionRow, ReadingRow, Row, utc_now
from trait_core.chat_templates import kwargs_text
from trait_core.errors import ServiceError
from trait_core.schema import Monitor, MonitoredChoice, MonitorReport, ServiceInfo


class StoredReading(NamedTuple):
    """The stored part of a reading; `directions` are those that have all that is asked for."""

    n_response: int
    token_ids: list[int]
    directions: set[Direction]


class _Read(NamedTuple):
    """A reading: its row if it is new, its tokens, the projections by position, and the report that names their columns."""

    row: ReadingRow | None
    token_ids: list[int]
    n_response: int
    rows: list[list[float]]
    report: MonitorReport

    def columns(self, wanted: Sequence[Direction]) -> dict[Direction, tuple[list[float], float]]:
        """Direction -> its values by position, and its centre.

        Raises:
            ServiceError: A direction is missing.
        """
        places = {Direction(d.sha256, d.layer): (i, d.centre) for i, d in enumerate(self.report.directions)}
        if not places.keys() >= set(wanted):
            raise ServiceError(f"the service projected on {sorted(places)}, and not on {sorted(wanted)}")
        return {each: ([row[places[each][0]] for row in self.rows], places[each][1]) for each in wanted}


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
        cosine: Read the tokens once more for their cosines.
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
        cosine: bool = False,
    ) -> None:
        self._client = client
        self._adapter = adapter
        self._tokeniser = tokeniser or client
        self._info = info
        self._run_id = run_id
        self._layers = layers
        self._max_tokens = max_tokens
        self._template_kwargs = chat_template_kwargs
        self._cosine = cosine

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
            layers=None if self._layers is None else sorted({direction.layer for direction in missing}),
            tokens=stored is None,
            bounds=[],
        )
        if stored is not None:
            read = await self._read_again(stored.token_ids, stored.n_response, monitor)
        elif prompt.response is None and self._max_tokens is not None:
            read = await self._read_generated(reading_id, prompt, monitor, self._max_tokens)
        else:
            read = await self._read_given(reading_id, prompt, monitor)
        cosines = None
        if self._cosine:
            again = monitor.model_copy(update={"cosine": True, "tokens": False})
            cosines = await self._read_again(read.token_ids, read.n_response, again)
        rows = _projections(reading_id, missing, read, cosines)
        return [*([read.row] if read.row is not None else []), *rows]

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
        read = await self._read_again(of.token_ids, of.n_response, monitor)
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

    async def _read_again(self, token_ids: list[int], n_response: int, monitor: Monitor) -> _Read:
        """Read tokens that are known."""
        result = await self._client.complete(token_ids, monitor=monitor, max_tokens=1, model=self._adapter)
        choice, report = _monitored(result)
        return _Read(None, token_ids, n_response, _aligned(choice.prompt, len(token_ids), n_response), report)

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
        return _Read(row, ids, len(response_ids), _aligned(choice.prompt, len(ids), len(response_ids)), report)

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
        rows = _aligned([*choice.prompt, *choice.generated[1:]], len(ids), len(response_ids))
        return _Read(row, ids, len(response_ids), rows, report)

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
            prompt_set=prompt.prompt_set,
            metadata=prompt.metadata_json,
            **self._reader_fields(),
        )


def _projections(
    reading_id: str, missing: Sequence[Direction], read: _Read, cosines: _Read | None = None
) -> list[ReadingProjectionRow]:
    projected, as_cosines = read.columns(missing), None if cosines is None else cosines.columns(missing)
    return [
        ReadingProjectionRow(
            reading_id=reading_id,
            sha256=direction.sha256,
            layer=direction.layer,
            centre=projected[direction][1],
            projected=projected[direction][0],
            cosines=None if as_cosines is None else as_cosines[direction][0],
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
