"""Fingerprints of a prompt set for the heat map: prompts, or groups of them, by directions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from trait_client.dashboard.data.prompt_set_index import PromptSetIndex, Selection
from trait_client.results import ResultReader
from trait_core.errors import InvalidRequestError

PAGE = 50

_CHOSEN = """
SELECT reading_id, sha256 || '|' || layer AS direction, separations, projection, cosine, n
FROM fingerprints
WHERE part = ? AND reading_id IN (SELECT unnest(?::VARCHAR[]))
"""

_GROUPED = """
SELECT g.name, f.sha256 || '|' || f.layer AS direction, avg(f.separations), avg(f.projection), avg(f.cosine), count(*)
FROM fingerprints f JOIN (SELECT unnest(?::VARCHAR[]) AS name, unnest(?::VARCHAR[]) AS reading_id) g USING (reading_id)
WHERE f.part = ?
GROUP BY ALL
"""


def fingerprints(
    reader: ResultReader, index: PromptSetIndex, chosen: Selection, part: str, by: str | None, number: int
) -> dict[str, Any]:
    """Rows of the heat map, with a value for each of the set's directions, in their order.

    Args:
        reader: The database.
        index: The prompt set.
        chosen: Prompts to show, and their order.
        part: `prompt` or `response`.
        by: Metadata field, or `outcome`: a row is the mean of the prompts with one value of it. None: a row is a prompt.
        number: Page of rows.

    Raises:
        InvalidRequestError: The part or the field is unknown.
    """
    if part not in ("prompt", "response"):
        raise InvalidRequestError(f"part {part[:80]!r} is not prompt or response", param="part")
    ids = index.select(chosen)
    if by is None:
        names = {entry.reading_id: entry.prompt_id for entry in index.entries}
        shown = ids[number * PAGE :][:PAGE]
        cells = _cells(reader.rows(_CHOSEN, [part, shown]))
        rows: list[dict[str, Any]] = [{"id": each, "label": names[each]} for each in shown]
        total = len(ids)
    else:
        groups = _groups(index, ids, by)
        pairs = [(name, reading_id) for name, members in groups.items() for reading_id in members]
        cells = _cells(reader.rows(_GROUPED, [[name for name, _ in pairs], [each for _, each in pairs], part]))
        rows = [{"id": None, "label": name, "n": len(groups[name])} for name in list(groups)[number * PAGE :][:PAGE]]
        total = len(groups)
    keys = [direction["key"] for direction in index.directions]
    for row in rows:
        own = cells.get(row["id"] or row["label"], {})
        row["cells"] = [own.get(key) for key in keys]
    return {"total": total, "page": number, "size": PAGE, "rows": rows}


def _groups(index: PromptSetIndex, ids: Sequence[str], by: str) -> dict[str, list[str]]:
    if by != "outcome" and by not in index.fields:
        raise InvalidRequestError(
            f"field {by[:80]!r} is not one of {', '.join(['outcome', *index.fields])}", param="by"
        )
    entries = {entry.reading_id: entry for entry in index.entries}
    groups: dict[str, list[str]] = defaultdict(list)
    for reading_id in ids:
        entry = entries[reading_id]
        values = (entry.outcome,) if by == "outcome" else entry.fields.get(by, ())
        for value in values:
            if value is not None:
                groups[value].append(reading_id)
    return dict(sorted(groups.items()))


def _cells(rows: Sequence[tuple[Any, ...]]) -> Mapping[str, dict[str, list[float | None]]]:
    """Row -> direction -> separations, projection, cosine, number of tokens or prompts."""
    cells: dict[str, dict[str, list[float | None]]] = defaultdict(dict)
    for name, direction, *values in rows:
        cells[name][direction] = [None if value is None else round(value, 4) for value in values]
    return cells
