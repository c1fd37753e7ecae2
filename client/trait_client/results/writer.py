"""The connection that writes a result database, and the snapshots that it publishes for readers."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import duckdb

from trait_client.results import layout, summaries
from trait_client.results.reader import ResultsError
from trait_client.results.rows import (
    ROW_TYPES,
    AgreementRow,
    ProjectionRow,
    ReadingLabels,
    ReadingProjectionRow,
    Row,
    RunStatus,
    ScoreRow,
    TrialRow,
    utc_now,
)
from trait_core.os_errors import sentence_in

_CONFLICT = {
    # A done trial is final; a failed one is replaced.
    TrialRow: "(trial_id) DO UPDATE SET {assignments} WHERE trials.status <> 'done'",
    # A score is replaced if its definition changed, or if it was pending.
    ScoreRow: "(trial_id, trait, name) DO UPDATE SET {assignments}",
    ProjectionRow: "(trial_id, sha256, layer, positions) DO UPDATE SET {assignments}",
    AgreementRow: "(definition, labels) DO UPDATE SET {assignments}",
    # A projection is final; its cosines may be asked for later.
    ReadingProjectionRow: "(reading_id, sha256, layer) DO UPDATE SET cosines = excluded.cosines WHERE excluded.cosines IS NOT NULL",
}

_COPY = "import shutil, sys; shutil.copyfile(*sys.argv[1:])"


class ResultWriter:
    """Writes rows in transactions: when `write` returns, all its rows are on disk.

    Rows are inserted a table at a time from columns (`INSERT ... SELECT unnest(...)`), several hundred times faster
    than one statement a row. Use it from one thread at a time.
    """

    def __init__(self, path: Path, snapshot: Path, patience: float) -> None:
        self._path = path
        self._snapshot = snapshot
        self._connection = _connect(path, patience)
        self._dirty = True
        try:
            with _said(path):
                layout.prepare(self._connection, path)
                self._stored = summaries.are_stored(self._connection)
                self._types = dict(
                    self._connection.execute(
                        "SELECT table_name || '.' || column_name, data_type FROM duckdb_columns() WHERE NOT internal"
                    ).fetchall()
                )
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None and not self._stored:
                with _said(self._path):
                    self._stored = summaries.store(self._connection)
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; from then on readers open it directly."""
        self._connection.close()
        self._snapshot.unlink(missing_ok=True)

    def write(self, rows: Iterable[Row]) -> None:
        """Store rows of any tables in one transaction; existing rows are not stored twice.

        Raises:
            ResultsError: The disk fails, a full one among the reasons; none of the rows is stored.
        """
        by_type: dict[type[Row], list[Row]] = {}
        for row in rows:
            by_type.setdefault(type(row), []).append(row)
        with _said(self._path), self._transaction():
            if self._stored:
                summaries.read_live(self._connection)
            for row_type in ROW_TYPES:
                if batch := by_type.get(row_type):
                    self._insert(row_type, batch)
        self._stored = False
        self._dirty = True

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.begin()
        try:
            yield
            self._connection.commit()
        except BaseException:
            with contextlib.suppress(duckdb.Error):  # after a fatal error there is nothing to roll back
                self._connection.rollback()
            raise

    def start_run(self, experiment: str, definition: str, n_trials: int) -> str:
        """Record the start of a run and return its id. Runs that a kill left `running` become `interrupted`."""
        run_id = uuid4().hex
        with _said(self._path):
            self._connection.execute("UPDATE runs SET status = 'interrupted' WHERE status = 'running'")
            self._connection.execute(
                "INSERT INTO runs (run_id, experiment, definition, started_at, status, n_trials) "
                "VALUES (?, ?, ?, ?, 'running', ?)",
                [run_id, experiment, definition, utc_now(), n_trials],
            )
        self._dirty = True
        return run_id

    def finish_run(self, run_id: str, status: RunStatus, message: str | None = None) -> None:
        """Record how a run ended."""
        with _said(self._path):
            self._connection.execute(
                "UPDATE runs SET status = ?, message = ?, finished_at = ? WHERE run_id = ?",
                [status, message, utc_now(), run_id],
            )
        self._dirty = True

    def extend_run(self, run_id: str, n_trials: int) -> None:
        """Add to the planned trials of a run."""
        self._connection.execute("UPDATE runs SET n_trials = n_trials + ? WHERE run_id = ?", [n_trials, run_id])
        self._dirty = True

    def label_readings(self, labels: Mapping[str, ReadingLabels]) -> None:
        """Set the labels of stored readings, by reading id."""
        columns = [list(column) for column in zip(*labels.values(), strict=True)] or [[], [], []]
        self._connection.execute(
            "UPDATE readings SET outcome = new.outcome, prompt_set = new.prompt_set, metadata = new.metadata "
            "FROM (SELECT unnest(?::VARCHAR[]) AS reading_id, unnest(?::VARCHAR[]) AS outcome, "
            "unnest(?::VARCHAR[]) AS prompt_set, unnest(?::VARCHAR[]) AS metadata) new "
            "WHERE new.reading_id = readings.reading_id AND (new.outcome, new.prompt_set, new.metadata) "
            "IS DISTINCT FROM (readings.outcome, readings.prompt_set, readings.metadata)",
            [list(labels), *columns],
        )
        self._dirty = True

    def clear_comparison(self, comparison_id: str, texts: Sequence[str], directions: Sequence[tuple[str, int]]) -> None:
        """Delete the effects and spans of a comparison for texts and directions, before they are measured again.

        Args:
            comparison_id: The comparison.
            texts: Values of the column `text`.
            directions: Vectors' hashes and layers.
        """
        for table in ("variant_effects", "variant_spans"):
            self._connection.execute(
                f"DELETE FROM {table} WHERE comparison_id = ? AND text IN (SELECT unnest(?::VARCHAR[])) "  # noqa: S608 - our own names
                "AND (sha256, layer) IN (SELECT unnest(?::VARCHAR[]), unnest(?::INTEGER[]))",
                [comparison_id, list(texts), [sha for sha, _ in directions], [layer for _, layer in directions]],
            )
        self._dirty = True

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Query the committed rows; parameters by place (`?`) or by name (`$name`)."""
        values = dict(parameters) if isinstance(parameters, Mapping) else list(parameters)
        return self._connection.execute(sql, values).fetchall()

    def publish_snapshot(self) -> bool:
        """Publish a copy of the database for readers, atomically; return whether anything was new.

        On Windows, where an open file cannot be copied or replaced, nothing is published, and queries wait for the writer.
        Not yet run on Windows.
        """
        if not self._dirty or sys.platform == "win32":
            return False
        temporary = self._snapshot.with_name(self._snapshot.name + ".tmp")
        with _said(self._path):  # all rows are in the file then, and nobody writes until this returns
            self._connection.execute("CHECKPOINT")
        temporary.unlink(missing_ok=True)  # an orphan process of a killed sweep may still write to it
        _copy(self._path, temporary)
        os.replace(temporary, self._snapshot)  # noqa: PTH105 - the name of the system call says what is relied on
        self._dirty = False
        return True

    def _insert(self, row_type: type[Row], rows: Sequence[Row]) -> None:
        table = row_type.table
        columns = [field.name for field in dataclasses.fields(row_type)]
        values = ", ".join(f"unnest(?::{self._types[f'{table}.{column}']}[])" for column in columns)
        assignments = ", ".join(f"{column} = excluded.{column}" for column in columns)
        conflict = _CONFLICT.get(row_type, "DO NOTHING").format(assignments=assignments)
        self._connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} ON CONFLICT {conflict}",
            [[getattr(row, column) for row in rows] for column in columns],
        )


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    """Turn the failure of a disk into a `ResultsError`; what was committed before is kept."""
    try:
        yield
    except duckdb.Error as error:
        sentence = sentence_in(str(error))
        if sentence is None and not isinstance(error, duckdb.IOException | duckdb.FatalException):
            raise  # a fault of a statement
        raise ResultsError(f"{path} cannot be written: {sentence or error}") from error


def is_locked(error: duckdb.Error) -> bool:
    """Tell whether another process has the file open: Linux and macOS speak of a lock, Windows of its use."""
    return "lock" in str(error) or "used by another process" in str(error)


def _connect(path: Path, patience: float) -> duckdb.DuckDBPyConnection:
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    while True:
        try:
            return duckdb.connect(path)
        except duckdb.IOException as error:
            if not is_locked(error):
                raise ResultsError(f"{path} cannot be opened: {sentence_in(str(error)) or error}") from error
            if time.monotonic() > deadline:
                raise ResultsError(f"{path} is being written by another process: {error}") from error
            time.sleep(0.1)


def _copy(source: Path, destination: Path) -> None:
    """Copy a file in another process: closing it in this one would give up DuckDB's lock (POSIX locks belong to a process)."""
    command = [sys.executable, "-S", "-c", _COPY, str(source), str(destination)]
    copied = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own program
    if copied.returncode:
        reason = copied.stderr.strip().rpartition("\n")[2]
        raise ResultsError(f"{source} cannot be copied to {destination} for readers: {reason}")
