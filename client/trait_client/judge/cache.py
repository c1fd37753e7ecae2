"""What was judged already: nothing is judged twice, whichever sweep, database session or endpoint asks."""

from collections import OrderedDict
from typing import Protocol

from trait_client.judge.judgement import Judgement
from trait_client.results import ResultWriter
from trait_client.results.recorder import Recorder
from trait_client.results.rows import JudgementRow, JudgeRow, Row, utc_now

RECENT = 20_000
"""Judgements kept at hand: many more than can wait for a commit."""


class JudgementCache(Protocol):
    """Where judgements are kept."""

    async def get(self, judgement_id: str) -> Judgement | None:
        """A judgement that was made before."""
        ...

    def put(self, judgement: Judgement, judge: JudgeRow) -> None:
        """Keep a judgement, and whose it is."""
        ...


class MemoryCache:
    """For as long as the process lives."""

    def __init__(self) -> None:
        self._judgements: dict[str, Judgement] = {}

    async def get(self, judgement_id: str) -> Judgement | None:
        """A judgement that was made before."""
        return self._judgements.get(judgement_id)

    def put(self, judgement: Judgement, _judge: JudgeRow) -> None:
        """Keep a judgement."""
        self._judgements[judgement.judgement_id] = judgement


class DatabaseCache:
    """The table `judgements` of a result database.

    Args:
        writer: Read on the recorder's thread.
        recorder: Commits what is new; the latest are held here too, since a commit takes a moment.
    """

    def __init__(self, writer: ResultWriter, recorder: Recorder) -> None:
        self._writer = writer
        self._recorder = recorder
        self._recent: OrderedDict[str, Judgement] = OrderedDict()
        self._judges: set[str] = set()

    async def get(self, judgement_id: str) -> Judgement | None:
        """A judgement that was made before."""
        if judgement_id in self._recent:
            return self._recent[judgement_id]
        sql = (
            "SELECT judgement_id, definition, value, mode, mass, answer, prompt_tokens, completion_tokens "
            "FROM judgements WHERE judgement_id = ?"
        )
        rows = await self._recorder.call(self._writer.query, sql, [judgement_id])
        return Judgement(*rows[0]) if rows else None

    def put(self, judgement: Judgement, judge: JudgeRow) -> None:
        """Keep a judgement for good, and whose it is."""
        self._recent[judgement.judgement_id] = judgement
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        rows: list[Row] = [JudgementRow(**vars(judgement), judged_at=utc_now())]
        if judge.definition not in self._judges:
            self._judges.add(judge.definition)
            rows.append(judge)
        self._recorder.put(rows)
