"""Results of sweeps: DuckDB tables, views and macros."""

from trait_client.results.errors import ResultsError
from trait_client.results.store import QueryResult, ResultStore
from trait_client.results.writer import ResultWriter

__all__ = ["QueryResult", "ResultStore", "ResultWriter", "ResultsError"]
