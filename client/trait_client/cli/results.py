"""`trait-client results`: two runs compared, and the tables as Parquet."""

from pathlib import Path
from typing import Annotated

import typer

from trait_client.cli.console import Database
from trait_client.cli.sql import print_rows
from trait_client.http.settings import DEFAULT_DATABASE
from trait_core.console import AsJson, out, plain, print_json

app = typer.Typer(no_args_is_help=True, help="Results as a whole: compare runs, export tables.")


@app.command()
def compare(
    run_a: Annotated[
        str, typer.Argument(metavar="RUN_A", help="A run's id, its beginning, an experiment's name, or latest.")
    ],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B")],
    *,
    db: Database = DEFAULT_DATABASE,
    as_json: AsJson = False,
) -> None:
    """Compare the settings of two runs, paired by prompt: what RUN_B's replies score more than RUN_A's.

    Settings are the same where trait, method, layers, coefficient, unit, operation, scope and sampling are; model, precision,
    adapter and vector may differ, and are named where they do. The interval is a bootstrap over prompts.

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
    to: Annotated[Path, typer.Argument(metavar="FOLDER", file_okay=False, help="Made as needed; files are replaced.")],
    *,
    db: Database = DEFAULT_DATABASE,
    views: Annotated[
        bool, typer.Option("--views/--no-views", help="Also cell_summary, trial_deltas and the like.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write every table as Parquet, one file each; also while a sweep runs.

    Example: `trait-client results export parquet --db results.duckdb`
    """
    from trait_client.results.export import export_parquet  # noqa: PLC0415

    written = export_parquet(db, to, views=views)
    if as_json:
        print_json({"folder": str(to), "rows": written})
        return
    for name, n in written.items():
        out.print(plain(f"{to / name}.parquet: {n} rows"), soft_wrap=True)
