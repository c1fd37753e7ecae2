"""`trait-client results`: compare two runs, export the tables as Parquet."""

from pathlib import Path
from typing import Annotated

import typer

from trait_client.cli.console import Database
from trait_client.cli.sql import print_rows
from trait_client.http.settings import DEFAULT_DATABASE
from trait_core.console import AsJson, out, plain, print_json

app = typer.Typer(no_args_is_help=True, help="Compare runs and export tables.")


@app.command()
def compare(
    run_a: Annotated[
        str, typer.Argument(metavar="RUN_A", help="A run's id, its first characters, an experiment's name, or latest.")
    ],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="The run to compare with it.")],
    *,
    db: Database = DEFAULT_DATABASE,
    as_json: AsJson = False,
) -> None:
    """Compare the settings of two runs, paired by prompt: scores of RUN_B minus scores of RUN_A.

    Settings match if trait, method, layers, coefficient, unit, operation, scope and sampling are equal. Model, precision,
    adapter and vector may differ; differences are listed. The interval is a bootstrap over prompts.

    Example: `trait-client results compare 3f2a 91bc --db results.duckdb`
    """
    from trait_client.results.comparison import compare_runs  # noqa: PLC0415 - DuckDB takes a while to import

    found = compare_runs(db, run_a, run_b)
    if as_json:
        print_json(found.as_json())
        return
    out.print(plain(f"A {found.run_a[:8]} ({found.name_a})   B {found.run_b[:8]} ({found.name_b})"), soft_wrap=True)
    for what, (a, b) in found.differing.items():
        out.print(plain(f"{what}: A {a}, B {b}"), soft_wrap=True)
    if not found.rows:
        out.print("the two runs have no setting in common")
        return
    columns = list(found.rows[0])
    print_rows(columns, [tuple(row.values()) for row in found.rows])


@app.command()
def export(
    to: Annotated[
        Path, typer.Argument(metavar="FOLDER", file_okay=False, help="Output folder; existing files are overwritten.")
    ],
    *,
    db: Database = DEFAULT_DATABASE,
    views: Annotated[
        bool, typer.Option("--views/--no-views", help="Also export views such as cell_summary and trial_deltas.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write every table to a Parquet file. Works while a sweep is running.

    Example: `trait-client results export parquet --db results.duckdb`
    """
    from trait_client.results.export import export_parquet  # noqa: PLC0415

    written = export_parquet(db, to, views=views)
    if as_json:
        print_json({"folder": str(to), "rows": written})
        return
    for name, n in written.items():
        out.print(plain(f"{to / name}.parquet: {n} rows"), soft_wrap=True)
