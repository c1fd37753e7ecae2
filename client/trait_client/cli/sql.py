"""`trait-client sql`: query the results, even while a sweep is writing them."""

import csv
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trait_client.cli.console import Database
from trait_client.http.settings import DEFAULT_DATABASE
from trait_client.results.json_values import json_value
from trait_core.console import AsJson, err, print_json, print_table
from trait_core.errors import InvalidRequestError
from trait_core.tables import Cell, Column, Shown, Table

if TYPE_CHECKING:
    from trait_client.results import QueryResult


def sql(
    query: Annotated[str, typer.Argument(help="One read-only statement.")],
    *,
    db: Database = DEFAULT_DATABASE,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header on stdout.")] = False,
) -> None:
    """Query the results. Views: cell_summary, best_coherent, pareto_front, precision_delta, method_comparison, pending_scores.

    Example: `trait-client sql "select * from best_coherent" --db results.duckdb`
    """
    from trait_client.results import ResultStore  # noqa: PLC0415 - DuckDB takes a while to import

    if as_json and as_csv:
        raise typer.BadParameter("give --json or --csv, not both")
    result = ResultStore(db).query(query)
    if as_json:
        print_json({"columns": result.columns, "rows": _records(result), "source": result.source})
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(result.columns)
        writer.writerows(result.rows)
    else:
        print_rows(result.columns, result.rows)
        if result.source == "snapshot" and err.is_terminal:
            err.print("a sweep is writing: these rows are from its snapshot, up to a few seconds old", style="dim")


def print_rows(columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    """Print a table; on a terminal too narrow for its words, one block per row."""
    numeric = [any(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    headings = [Column(column, right=right) for column, right in zip(columns, numeric, strict=True)]
    print_table(Table(headings, [[_cell(value) for value in row] for row in rows]))


def _records(result: "QueryResult") -> list[dict[str, Any]]:
    if len(set(result.columns)) < len(result.columns):
        raise InvalidRequestError(f"columns {result.columns} repeat a name: rename them with AS", param="sql")
    return [dict(zip(result.columns, map(json_value, row), strict=True)) for row in result.rows]


def _cell(value: object) -> Cell:
    if value is None:
        return "-"
    return Shown(f"{value:.5g}", repr(value)) if isinstance(value, float) else str(value)
