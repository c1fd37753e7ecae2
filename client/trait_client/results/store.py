"""Results of sweeps in one DuckDB file.

While one process writes a DuckDB file, no other process can open it, not even to read. So a store holds no connection: a
sweep holds the writer while it runs, and the writer publishes `<path>.snapshot`, a whole copy renamed into place every
few seconds. Queries read the database directly, or the latest snapshot while another process is writing.
"""

import contextlib
import time
from pathlib import Path

import duckdb

from trait_client.results.reader import QueryResult, ResultReader, ResultsError, ResultsMissingError, Source
from trait_client.results.writer import ResultWriter, is_locked
from trait_core.os_errors import sentence_in

_READER_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",  # a query reads this database, and no other file
    "lock_configuration": "true",
    "python_enable_replacements": "false",  # nor this process's variables
}


class ResultStore:
    """A result database by its path.

    Args:
        path: The DuckDB file; the first writer creates it.
        patience: Seconds that a writer waits for queries to close the file, and a query for a new writer's first
            snapshot.
    """

    def __init__(self, path: str | Path, patience: float = 10.0) -> None:
        self._patience = patience
        self.path = Path(path)
        self.snapshot = self.path.with_name(self.path.name + ".snapshot")

    def writer(self) -> ResultWriter:
        """Open the file for writing, and create it if it is missing; a context manager.

        Raises:
            ResultsError: Another process writes it, it is not a database, or another version wrote it.
        """
        return ResultWriter(self.path, self.snapshot, self._patience)

    def query(self, sql: str) -> QueryResult:
        """Run one read-only statement, also while a sweep writes.

        Raises:
            InvalidRequestError: The statement is wrong, or would write.
            ResultsError: The database does not exist or cannot be read.
        """
        with self.reader() as reader:
            return reader.query(sql)

    def reader(self, *, writes_files: bool = False) -> ResultReader:
        """Open it for several queries of one state; a context manager. A writer waits until it is closed.

        Args:
            writes_files: Allow `COPY ... TO` to write files; never set it for untrusted queries.

        Raises:
            ResultsMissingError: The database does not exist.
            ResultsError: It cannot be read.
        """
        return ResultReader(*self._open(writes_files=writes_files))

    def _open(self, *, writes_files: bool) -> tuple[duckdb.DuckDBPyConnection, Source]:
        if not self.path.exists():
            raise ResultsMissingError(f"no results at {self.path}: run a sweep first, or give the database's path")
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return _connect(self.path, writes_files=writes_files), "database"
            except (duckdb.IOException, duckdb.ConnectionException) as error:
                if not _is_held(error):
                    raise ResultsError(f"{self.path} cannot be read: {sentence_in(str(error)) or error}") from error
                if self.snapshot.exists():
                    with contextlib.suppress(duckdb.IOException):  # the writer closed in between: look again
                        return _connect(self.snapshot, writes_files=writes_files), "snapshot"
                if time.monotonic() > deadline:
                    raise ResultsError(f"{self.path} is being written, and has no snapshot yet") from error
            time.sleep(0.1)


def _is_held(error: duckdb.Error) -> bool:
    """Return whether the file is open for writing: in another process (a lock), or in this one (another configuration)."""
    return isinstance(error, duckdb.ConnectionException) or is_locked(error)


def _connect(path: Path, *, writes_files: bool) -> duckdb.DuckDBPyConnection:
    config = _READER_CONFIG | ({"enable_external_access": "true"} if writes_files else {})
    return duckdb.connect(path, read_only=True, config=config)
