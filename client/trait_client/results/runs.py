"""The run that a user means."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from trait_core.errors import InvalidRequestError

LATEST = "latest"

Rows = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
"""Answers a query: `ResultReader.rows` or `ResultWriter.query`."""

MOST_NAMED = 8


class Run(NamedTuple):
    """A row of the table `runs`; `definition` is JSON."""

    run_id: str
    experiment: str
    definition: str

    def __str__(self) -> str:
        return f"{self.run_id[:8]} ({self.experiment})"


def find_run(rows: Rows, text: str, *, sweeps_only: bool = False) -> Run:
    """Find a run by its id, the beginning of its id, `latest`, or the name of its experiment, whose newest run is taken.

    Args:
        rows: Queries the database.
        text: What the user wrote.
        sweeps_only: Look at runs with cells alone: sweeps and searches, no prompt sets.

    Raises:
        InvalidRequestError: No run matches, or several do; the message names them.
    """
    sql = (
        "SELECT run_id, experiment, definition FROM runs "
        "WHERE NOT ?::BOOLEAN OR run_id IN (SELECT run_id FROM run_cells) ORDER BY started_at DESC"
    )
    runs = [Run(*row) for row in rows(sql, [sweeps_only])]
    named = runs if text == LATEST else [run for run in runs if run.experiment == text]
    found = [run for run in runs if text and run.run_id.startswith(text)] or named[:1]
    if len(found) == 1:
        return found[0]
    known = ", ".join(map(str, (found or runs)[:MOST_NAMED])) or "none"
    if found:
        raise InvalidRequestError(f"{text!r} matches several runs: {known}. Write more of the id", param="run")
    what = "sweep" if sweeps_only else "run"
    raise InvalidRequestError(
        f"no {what} matches {text!r}: give an id, its beginning, an experiment's name or {LATEST}; there are {known}",
        param="run",
    )
