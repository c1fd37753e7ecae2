"""Results of sweeps and prompt sets: DuckDB tables, views and macros."""

from trait_client.results.reader import Frame, QueryResult, ResultReader, ResultsError, ResultsMissingError
from trait_client.results.store import ResultStore
from trait_client.results.writer import ResultWriter

__all__ = ["Frame", "QueryResult", "ResultReader", "ResultStore", "ResultWriter", "ResultsError", "ResultsMissingError"]
