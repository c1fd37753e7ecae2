"""Stored patchings, for the command line and the dashboard."""

from dataclasses import dataclass
from typing import Any

from trait_client.results import ResultReader
from trait_core.errors import InvalidRequestError

_PATCHING = "SELECT * FROM patchings WHERE patching_id = ?"

_CELLS = """
SELECT * EXCLUDE (patching_id) FROM patches
WHERE patching_id = ?
ORDER BY hook_point <> 'resid_post', hook_point, layer, n, position
"""


@dataclass(frozen=True)
class StoredPatching:
    """A patching and its cells.

    Attributes:
        patching: Row of `patchings`.
        cells: Rows of `patches`, by hook point, layer and position; those of whole parts come last in each layer.
    """

    patching: dict[str, Any]
    cells: list[dict[str, Any]]


def read_patching(reader: ResultReader, patching_id: str) -> StoredPatching:
    """Read a patching.

    Raises:
        InvalidRequestError: There is none with this id.
    """
    found = reader.records(_PATCHING, [patching_id])
    if not found:
        raise InvalidRequestError(f"no patching {patching_id[:80]!r} is in the database", param="patching")
    return StoredPatching(found[0], reader.records(_CELLS, [patching_id]))
