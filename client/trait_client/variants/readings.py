"""Readings of a comparison: every prompt with one reply, read by both models on the same token ids.

A text's *first* reading is its author's: the model whose reply it is, or the base for a reply that the prompt set gives.
The other model then reads its token ids.
"""

import asyncio
import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trait_client.prompt_sets.directions import Direction
from trait_client.prompt_sets.prompts import SetPrompt
from trait_client.prompt_sets.reading import PromptReader, StoredReading
from trait_client.results import ResultWriter
from trait_client.results.recorder import Recorder
from trait_client.results.rows import ReadingProjectionRow, ReadingRow, Row
from trait_client.variants.sides import Side
from trait_core.chat_templates import kwargs_text
from trait_core.errors import ServiceUnreachableError, TraitError
from trait_core.model_identity import digest

Progress = Callable[[int, int, int, int], None]

Text = Literal["base", "variant", "given"]
"""Whose reply a text ends with."""

COMPARISON = "comparison"
"""`readings.read_for` of these readings."""

_COLUMNS = [field.name for field in dataclasses.fields(ReadingRow)]
_READINGS = f"SELECT {', '.join(_COLUMNS)} FROM readings WHERE reading_id IN (SELECT unnest(?::VARCHAR[]))"  # noqa: S608 - names of our own columns
_DIRECTIONS = (
    "SELECT reading_id, sha256, layer FROM reading_projections WHERE reading_id IN (SELECT unnest(?::VARCHAR[]))"
)


@dataclass(frozen=True)
class Pair:
    """One text and its two readings.

    Attributes:
        prompt: The prompt as it is read: without its response where a model writes the reply.
        author: Reading id of the text's first reading.
        other: Reading id of the other model's.
    """

    text: Text
    prompt: SetPrompt
    author: str
    other: str

    @property
    def base(self) -> str:
        """Id of the base's reading."""
        return self.other if self.text == "variant" else self.author

    @property
    def variant(self) -> str:
        """Id of the variant's reading."""
        return self.author if self.text == "variant" else self.other


def pairs_of(
    prompts: Sequence[SetPrompt],
    texts: Sequence[Text],
    base: Side,
    variant: Side,
    max_tokens: int | None,
    chat_template_kwargs: dict[str, Any] | None,
) -> list[Pair]:
    """The readings of a comparison; an id is a digest of everything that its tokens and values depend on."""
    shared = ["variants", base.info.chat_template_digest, kwargs_text(chat_template_kwargs)]
    pairs = []
    for text, prompt in itertools.product(texts, prompts):
        author, other = (variant, base) if text == "variant" else (base, variant)
        own = prompt if text == "given" else dataclasses.replace(prompt, response=None)
        length = None if text == "given" else max_tokens
        first = digest([*shared, author.identity, own.prompt_id, own.content(), length])
        pairs.append(Pair(text, own, first, digest([*shared, other.identity, "the tokens of", first])))
    return pairs


class Readings:
    """The stored readings of a comparison, and the work that completes them.

    Args:
        sides: The base, and the variant, each with the vectors at its service.
        pairs: All readings that are wanted.
        directions: Vectors and layers; hashes as at the base's service.
        writer: The database.
        run_id: Row in `runs`.
        layers: As asked; None uses each vector file's recommended layer.
        max_tokens: Length of generated replies; None generates none.
        chat_template_kwargs: Variables of the chat template.
        progress: Called after each commit with readings done, planned and failed, and tokens.

    Attributes:
        rows: Reading id -> its row, as far as it is stored.
        failures: Messages of readings that failed, with their counts.
        n_read: Readings that this run took.
        tokens: Tokens that this run projected.
    """

    def __init__(
        self,
        sides: tuple[Side, Side],
        pairs: Sequence[Pair],
        directions: Sequence[Direction],
        writer: ResultWriter,
        run_id: str,
        *,
        layers: list[int] | None,
        max_tokens: int | None,
        chat_template_kwargs: dict[str, Any] | None,
        progress: Progress | None = None,
    ) -> None:
        def reader(side: Side) -> PromptReader:
            return PromptReader(
                side.client,
                side.info,
                run_id,
                layers=layers,
                max_tokens=max_tokens,
                chat_template_kwargs=chat_template_kwargs,
                adapter=side.adapter,
                tokeniser=sides[0].client,
            )

        self._sides = {"base": sides[0], "variant": sides[1]}
        self._readers = {name: reader(side) for name, side in self._sides.items()}
        self._pairs = pairs
        self._directions = directions
        self._writer = writer
        self._recorder = Recorder(writer, self._committed)
        self._progress = progress
        self._stopped = False
        self.rows: dict[str, ReadingRow] = {}
        self._known: dict[str, set[Direction]] = defaultdict(set)
        self.failures: Counter[str] = Counter()
        self.n_read = self.tokens = 0
        self._load()
        self._planned = sum(bool(self._missing(each)) for each in self._ids())

    async def complete(self) -> None:
        """Read what is not stored: first the authors' readings, then the other models'."""
        await self._recorder.run_beside(self._work())

    def whole(self) -> list[Pair]:
        """Pairs whose two readings are stored on all directions."""
        return [pair for pair in self._pairs if not (self._missing(pair.author) or self._missing(pair.other))]

    async def _work(self) -> None:
        firsts = {pair.author: self._first(pair) for pair in self._pairs if self._missing(pair.author)}
        await self._all(firsts)
        others = {
            pair.other: self._second(pair)
            for pair in self._pairs
            if self._missing(pair.other) and pair.author in self.rows
        }
        await self._all(others)
        await self._recorder.drained()

    async def _all(self, jobs: Mapping[str, Callable[[], Awaitable[list[Row]]]]) -> None:
        """Run jobs by reading id, up to twice what an engine runs at once."""
        pending = iter(jobs.items())
        n_workers = 2 * min(side.info.limits.max_num_seqs for side in self._sides.values())
        async with asyncio.TaskGroup() as group:
            for _ in range(min(n_workers, len(jobs))):
                group.create_task(self._take(pending))

    async def _take(self, pending: Iterator[tuple[str, Callable[[], Awaitable[list[Row]]]]]) -> None:
        for reading_id, job in pending:
            if self._stopped:
                return
            try:
                rows = await job()
            except TraitError as error:
                self.failures[str(error)] += 1
                self._stopped = self._stopped or isinstance(error, ServiceUnreachableError)
                continue
            for row in rows:
                if isinstance(row, ReadingRow):
                    self.rows[reading_id] = row
            self._recorder.put(rows)

    def _first(self, pair: Pair) -> Callable[[], Awaitable[list[Row]]]:
        """The job of an author's reading."""
        side = "variant" if pair.text == "variant" else "base"
        row = self.rows.get(pair.author)
        stored = None if row is None else StoredReading(row.n_response, row.token_ids, set())

        async def job() -> list[Row]:
            missing = self._at(side, self._missing(pair.author))
            rows = await self._readers[side].read(pair.author, pair.prompt, missing, stored)
            if rows and isinstance(rows[0], ReadingRow) and rows[0].max_tokens is not None:
                # Its own author reads a reply as the other model does, at once: decoding rounds otherwise.
                rows = await self._readers[side].read_same(pair.author, rows[0], missing)
            return self._named(side, rows)

        return job

    def _second(self, pair: Pair) -> Callable[[], Awaitable[list[Row]]]:
        """The job of the other model's reading."""
        side = "base" if pair.text == "variant" else "variant"

        async def job() -> list[Row]:
            missing = self._at(side, self._missing(pair.other))
            rows = await self._readers[side].read_same(pair.other, self.rows[pair.author], missing)
            return self._named(side, rows)

        return job

    def _at(self, side: str, directions: Sequence[Direction]) -> list[Direction]:
        """Directions with the hashes of their vectors at a side's service."""
        return [Direction(self._sides[side].vectors[each.sha256], each.layer) for each in directions]

    def _named(self, side: str, rows: Sequence[Row]) -> list[Row]:
        """Rows as they are stored: with the hashes of the base's vectors, and said to be of a comparison."""
        hashes = {own: sha256 for sha256, own in self._sides[side].vectors.items()}
        named: list[Row] = []
        for row in rows:
            if isinstance(row, ReadingRow):
                named.append(dataclasses.replace(row, read_for=COMPARISON))
            elif isinstance(row, ReadingProjectionRow):
                named.append(dataclasses.replace(row, sha256=hashes[row.sha256]))
        return named

    # --------------------------------------------------------------------------------------------------------- storage

    def _ids(self) -> list[str]:
        return list(dict.fromkeys(reading_id for pair in self._pairs for reading_id in (pair.author, pair.other)))

    def _missing(self, reading_id: str) -> list[Direction]:
        return [direction for direction in self._directions if direction not in self._known[reading_id]]

    def _load(self) -> None:
        ids = self._ids()
        for values in self._writer.query(_READINGS, [ids]):
            row = ReadingRow(**dict(zip(_COLUMNS, values, strict=True)))
            self.rows[row.reading_id] = row
        for reading_id, sha256, layer in self._writer.query(_DIRECTIONS, [ids]):
            self._known[reading_id].add(Direction(sha256, layer))

    def _committed(self, rows: Sequence[Row]) -> None:
        read: dict[str, int] = {}
        for row in rows:
            if isinstance(row, ReadingProjectionRow):
                self._known[row.reading_id].add(Direction(row.sha256, row.layer))
                read[row.reading_id] = len(row.projected)
        self.n_read += len(read)
        self.tokens += sum(read.values())
        if self._progress is not None:
            self._progress(self.n_read, self._planned, self.failures.total(), self.tokens)
