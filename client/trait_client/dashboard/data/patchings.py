"""Patchings: two prompts, and what each cell restores."""

import dataclasses
from typing import Any

from trait_client.patching.stored import read_patching
from trait_client.results import ResultReader

_PATCHINGS = """
SELECT p.patching_id, p.name, p.model, p.answer_tokens, p.patched_at, count(*) AS n_cells
FROM patchings p JOIN patches c USING (patching_id)
GROUP BY ALL ORDER BY p.patched_at DESC
"""


def patchings(reader: ResultReader) -> list[dict[str, Any]]:
    """All patchings, newest first."""
    return reader.records(_PATCHINGS)


def patching(reader: ResultReader, patching_id: str) -> dict[str, Any]:
    """One patching and its cells.

    Raises:
        InvalidRequestError: There is none with this id.
    """
    return dataclasses.asdict(read_patching(reader, patching_id))
