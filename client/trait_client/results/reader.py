"""A connection that reads a result database, limits for untrusted queries, and the errors of results."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Self

import duckdb

from trait_core.errors import InvalidRequestError, TraitError
from trait_core.os_errors import sentence_in

Source = Literal["database", "snapshot"]
Frame = Literal["pandas", "polars"]

_READING = frozenset({duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN})


class ResultsError(TraitError):
    """A result database is missing, cannot be opened, or is written by another process."""


class ResultsMissingError(ResultsError):
    """The result database does not exist yet."""


class QueryResult(NamedTuple):
    """The answer to a query.

    Attributes:
        columns: Names, in order.
        rows: Values, a tuple each.
        source: `snapshot` if a sweep was writing: up to a few seconds old.
        truncated: More rows exist than were asked for.
    """

    columns: list[str]
    rows: list[tuple[Any, ...]]
    source: Source
    truncated: bool = False


class ResultReader:
    """Reads one state of the database; a context manager that closes the file at its end.

    Args:
        connection: Read-only.
        source: The file that it reads.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, source: Source) -> None:
        self._connection = connection
        self.source = source

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> QueryResult:
        """Run one statement.

        Raises:
            InvalidRequestError: The statement is wrong, or would write.
        """
        with _refusals():
            cursor = self._connection.execute(sql, list(parameters))
            return QueryResult(_names(cursor), cursor.fetchall(), self.source)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows alone; see `query`."""
        return self.query(sql, parameters).rows

    def records(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows by column name."""
        result = self.query(sql, parameters)
        return [dict(zip(result.columns, row, strict=True)) for row in result.rows]

    def frame(self, sql: str, library: Frame) -> Any:
        """Run one SELECT and return its rows as a `pandas.DataFrame` or a `polars.DataFrame`.

        Raises:
            InvalidRequestError: The statement is wrong, or would write.
            ImportError: The library is not installed.
        """
        with _refusals():
            relation = self._connection.sql(sql)
            if library == "pandas":
                return relation.df()
            import polars as pl  # noqa: PLC0415 - optional

            return pl.DataFrame(relation)  # over Arrow's stream, which needs no pyarrow

    def bounded(self, sql: str, *, max_rows: int, max_seconds: float) -> QueryResult:
        """Run one untrusted SELECT or EXPLAIN within a limit of rows and seconds.

        Raises:
            InvalidRequestError: The statement is wrong, would write, is more than one, or takes too long.
        """
        with _refusals():
            statements = self._connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type not in _READING:
            kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
            raise InvalidRequestError(
                f"give one SELECT (or EXPLAIN, DESCRIBE, SUMMARIZE); this is {kinds}", param="sql"
            )
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._connection.interrupt()

        timer = threading.Timer(max_seconds, stop)
        timer.start()
        try:
            with _refusals():
                cursor = self._connection.execute(statements[0])
                rows = cursor.fetchmany(max_rows + 1)
                return QueryResult(_names(cursor), rows[:max_rows], self.source, truncated=len(rows) > max_rows)
        except InvalidRequestError as error:
            if late.is_set():
                raise InvalidRequestError(
                    f"the query takes more than {max_seconds:g} s and was stopped: read less, or run it with `trait-client sql`",
                    param="sql",
                ) from error
            raise
        finally:
            timer.cancel()


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        if (sentence := sentence_in(str(error))) is not None:  # a COPY to a full disk
            raise ResultsError(f"the query fails: {sentence}") from error
        raise InvalidRequestError(f"the query fails: {error}", param="sql") from error


def _names(cursor: duckdb.DuckDBPyConnection) -> list[str]:
    return [column[0] for column in cursor.description or []]
