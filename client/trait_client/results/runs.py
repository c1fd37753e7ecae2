"""Runs: recorded from start to end, and found by id, prefix, name or `latest`."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from trait_client.results.reader import ResultsError
from trait_client.results.writer import ResultWriter
from trait_core.errors import InvalidRequestError

OutcomeStatus = Literal["ok", "partial"]

LATEST = "latest"

Rows = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
"""Function that answers a query: `ResultReader.rows` or `ResultWriter.query`."""

MOST_NAMED = 8


MOST_REASONS = 3
"""Distinct errors stored in `runs.message` for a partial run."""


class Outcome(Protocol):
    """Outcome of a sweep, search, rescoring, capture or projection, as its command prints it."""

    @property
    def status(self) -> OutcomeStatus:
        """`partial` if something failed or is missing; the next run tries it again."""

    @property
    def errors(self) -> tuple[tuple[str, int], ...]:
        """Distinct messages, most frequent first, with their counts."""

    @property
    def line(self) -> str:
        """Status and counts in one line."""


@dataclass
class RecordedRun:
    """A run in progress; the block of `recorded_run` sets the outcome."""

    run_id: str
    outcome: Outcome | None = None


@contextlib.contextmanager
def recorded_run(writer: ResultWriter, name: str, definition: str, n_trials: int) -> Iterator[RecordedRun]:
    """Record the start and the end of a run in the table `runs`.

    If the block raises or sets no outcome, the run is `interrupted`.

    Args:
        writer: The database.
        name: Name of the experiment or prompt set.
        definition: Definition of the run, as JSON.
        n_trials: Planned trials, including those that earlier runs stored.
    """
    run = RecordedRun(writer.start_run(name, definition, n_trials))
    try:
        yield run
    except BaseException:
        with contextlib.suppress(ResultsError):  # the disk fails: the first error says so
            writer.finish_run(run.run_id, "interrupted")
        raise
    if run.outcome is None:
        writer.finish_run(run.run_id, "interrupted")
        return
    reasons = "; ".join(f"{count} x {text}" for text, count in run.outcome.errors[:MOST_REASONS])
    writer.finish_run(run.run_id, run.outcome.status, reasons or None)


class Run(NamedTuple):
    """A row of the table `runs`; `definition` is JSON."""

    run_id: str
    experiment: str
    definition: str

    def __str__(self) -> str:
        return f"{self.run_id[:8]} ({self.experiment})"


def find_run(rows: Rows, text: str, *, sweeps_only: bool = False) -> Run:
    """Find a run by its id, the beginning of its id, `latest`, or its experiment's name (the newest run of it).

    Args:
        rows: Function that queries the database.
        text: The user's text.
        sweeps_only: Search only runs that have cells: sweeps and searches, not prompt sets.

    Raises:
        InvalidRequestError: No run matches, or several do; the message lists runs.
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
