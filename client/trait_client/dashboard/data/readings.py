"""Prompts of a prompt set with their replies and token-by-token projections."""

import json
from typing import Any

from trait_client.dashboard.data.prompt_set_index import PromptSetIndex, Selection
from trait_client.results import ResultReader
from trait_core.errors import InvalidRequestError
from trait_core.schema import Message

PAGE = 50

_SETS = """
SELECT s.experiment AS name, count(*) AS n, sum(r.n_prompt)::BIGINT AS prompt_tokens, sum(r.n_response)::BIGINT AS tokens,
       any_value(r.model) AS model, max(r.finished_at) AS finished_at
FROM readings r JOIN runs s USING (run_id) WHERE r.read_for IS NULL GROUP BY ALL ORDER BY max(r.finished_at) DESC
"""

_OUTCOMES = """
SELECT s.experiment AS name, r.outcome, count(*) AS n
FROM readings r JOIN runs s USING (run_id) WHERE r.read_for IS NULL GROUP BY ALL ORDER BY r.outcome NULLS LAST
"""

# As in the view `token_projections`: a prompt token has its own position's value, a reply token the one before it.
_VALUES = """
SELECT p.sha256 || '|' || p.layer AS direction,
       list_concat(p.projected[:r.n_prompt], p.projected[r.n_prompt:len(r.tokens) - 1]) AS v
FROM reading_projections p JOIN readings r USING (reading_id)
WHERE p.reading_id = ?
"""


def prompt_sets(reader: ResultReader) -> list[dict[str, Any]]:
    """The projected sets with their outcomes, newest first."""
    outcomes = reader.records(_OUTCOMES)
    sets = reader.records(_SETS)
    for each in sets:
        each["outcomes"] = [
            {"outcome": row["outcome"], "n": row["n"]} for row in outcomes if row["name"] == each["name"]
        ]
    return sets


def page(reader: ResultReader, index: PromptSetIndex, chosen: Selection, number: int) -> dict[str, Any]:
    """A page of readings with whole texts and the mean of each direction over the reply."""
    ids = index.select(chosen)
    shown = _rows(reader, ids[number * PAGE :][:PAGE])
    for row in shown:
        row["means"] = index.means_of(row["reading_id"])
    return {"total": len(ids), "page": number, "size": PAGE, "rows": shown}


def reading(reader: ResultReader, index: PromptSetIndex, chosen: Selection, reading_id: str | None) -> dict[str, Any]:
    """One reading with all its values and its neighbours in the selection; the first one if no id is given.

    Raises:
        InvalidRequestError: The reading does not exist, or the selection is empty.
    """
    ids = index.select(chosen)
    if reading_id is None:
        if not ids:
            raise InvalidRequestError("no prompt of this set matches the filter: clear the filter", param="text")
        reading_id = ids[0]
    place = ids.index(reading_id) if reading_id in ids else None
    return {
        **tokenwise(reader, reading_id),
        "place": place,
        "total": len(ids),
        "previous": ids[place - 1] if place else None,
        "next": ids[place + 1] if place is not None and place + 1 < len(ids) else None,
    }


def tokenwise(reader: ResultReader, reading_id: str) -> dict[str, Any]:
    """One reading with its tokens and, for each direction, a value per token.

    Raises:
        InvalidRequestError: The reading does not exist.
    """
    rows = _rows(reader, [reading_id])
    if not rows:
        raise InvalidRequestError(f"no reading {reading_id[:80]!r} is in the database", param="reading")
    tokens = reader.query("SELECT tokens FROM readings WHERE reading_id = ?", [reading_id]).rows[0][0]
    values = {
        direction: [round(value, 4) for value in found] for direction, found in reader.query(_VALUES, [reading_id]).rows
    }
    return {**rows[0], "tokens": tokens, "values": values}


def _rows(reader: ResultReader, ids: list[str]) -> list[dict[str, Any]]:
    rows = reader.records(
        "SELECT r.reading_id, r.prompt_id, r.outcome, r.messages, r.text, r.response, r.given, r.finish_reason, "
        "r.n_prompt, r.n_response, r.model, r.metadata FROM readings r WHERE r.reading_id IN (SELECT unnest(?::VARCHAR[]))",
        [ids],
    )
    for row in rows:
        row["messages"] = [shown(turn) for turn in json.loads(row["messages"])] if row["messages"] else None
        row["metadata"] = json.loads(row["metadata"]) if row["metadata"] else {}
    place = {reading_id: i for i, reading_id in enumerate(ids)}
    return sorted(rows, key=lambda row: place[row["reading_id"]])


def shown(turn: dict[str, Any]) -> dict[str, str]:
    """A message of a chat as it is shown: its role, and its text or the calls that it makes."""
    message = Message.model_validate(turn)
    calls = json.dumps(message.tool_calls, ensure_ascii=False) if message.tool_calls else ""
    return {"role": message.role, "content": "\n".join(part for part in (message.text, calls) if part)}
