"""Cache of judgements: nothing is judged twice, whichever sweep, database session or endpoint asks."""

from collections import OrderedDict
from typing import Protocol

from trait_client.judge.judgement import Judgement
from trait_client.results import ResultWriter
from trait_client.results.recorder import Recorder
from trait_client.results.rows import JudgementRow, JudgeRow, Row, utc_now

RECENT = 20_000
"""Judgements held in memory: many more than can wait for a commit."""


class JudgementCache(Protocol):
    """A store of judgements."""

    async def get(self, judgement_id: str) -> Judgement | None:
        """An earlier judgement; None if there is none."""
        ...

    def put(self, judgement: Judgement, judge: JudgeRow) -> None:
        """Store a judgement and its judge."""
        ...


class MemoryCache:
    """Judgements of this process, held in memory."""

    def __init__(self) -> None:
        self._judgements: dict[str, Judgement] = {}

    async def get(self, judgement_id: str) -> Judgement | None:
        """An earlier judgement; None if there is none."""
        return self._judgements.get(judgement_id)

    def put(self, judgement: Judgement, _judge: JudgeRow) -> None:
        """Store a judgement."""
        self._judgements[judgement.judgement_id] = judgement


class DatabaseCache:
    """The table `judgements` of a result database.

    Args:
        writer: The database, read on the recorder's thread.
        recorder: Commits new judgements; the latest are held here too until they are committed.
    """

    def __init__(self, writer: ResultWriter, recorder: Recorder) -> None:
        self._writer = writer
        self._recorder = recorder
        self._recent: OrderedDict[str, Judgement] = OrderedDict()
        self._judges: set[str] = set()

    async def get(self, judgement_id: str) -> Judgement | None:
        """An earlier judgement; None if there is none."""
        if judgement_id in self._recent:
            return self._recent[judgement_id]
        sql = (
            "SELECT judgement_id, definition, value, mode, mass, answer, prompt_tokens, completion_tokens "
            "FROM judgements WHERE judgement_id = ?"
        )
        rows = await self._recorder.call(self._writer.query, sql, [judgement_id])
        return Judgement(*rows[0]) if rows else None

    def put(self, judgement: Judgement, judge: JudgeRow) -> None:
        """Store a judgement and its judge for good."""
        self._recent[judgement.judgement_id] = judgement
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        rows: list[Row] = [JudgementRow(**vars(judgement), judged_at=utc_now())]
        if judge.definition not in self._judges:
            self._judges.add(judge.definition)
            rows.append(judge)
        self._recorder.put(rows)
