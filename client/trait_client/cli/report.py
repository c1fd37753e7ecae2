"""`trait-client report`: a run as one HTML file."""

import re
from pathlib import Path
from typing import Annotated

import typer

from trait_client.cli.console import Database
from trait_client.http.settings import DEFAULT_DATABASE
from trait_core.console import AsJson, out, print_json


def report(
    run: Annotated[str, typer.Argument(help="A run's id, its first characters, or an experiment's name (newest run).")],
    *,
    to: Annotated[
        Path | None, typer.Option("--out", "-o", dir_okay=False, help="File to write [default: EXPERIMENT-RUN.html].")
    ] = None,
    db: Database = DEFAULT_DATABASE,
    as_json: AsJson = False,
) -> None:
    """Write a run with its charts and texts to one HTML file that works offline.

    Example: `trait-client report demo --db demo/results.duckdb`
    """
    from trait_client.dashboard.report import report as page_of  # noqa: PLC0415 - DuckDB takes a while to import
    from trait_client.results import ResultStore  # noqa: PLC0415

    with ResultStore(db).reader() as reader:
        found, page = page_of(reader, run)
    name = re.sub(r"[^\w.-]+", "-", found["experiment"]).strip("-.") or "run"
    target = to or Path(f"{name}-{found['run_id'][:8]}.html")
    target.write_text(page, encoding="utf-8")
    if as_json:
        print_json({"run_id": found["run_id"], "file": str(target), "bytes": target.stat().st_size})
    else:
        out.print(f"{target} ({target.stat().st_size / 1e6:.1f} MB)", soft_wrap=True)
