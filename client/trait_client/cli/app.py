"""`trait-client`: all commands, and the exit codes of their errors.

0 ok · 1 failed · 2 usage · 3 partial · 130 interrupted.
"""

from typing import Annotated

import typer

from trait_client import __version__
from trait_client.cli import (
    capture,
    chat,
    check_metrics,
    compare_variants,
    dashboard,
    fingerprint,
    judge,
    patch,
    project,
    report,
    rescore,
    results,
    search,
    sql,
    status,
    steer,
    sweep,
    vectors,
)
from trait_core.console import run

app = typer.Typer(
    name="trait-client",
    help="Steer the model of a trait-steering service, run sweeps, query the results.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("steer")(steer.steer)
app.command("chat")(chat.chat)
app.command("status")(status.status)
app.add_typer(vectors.app, name="vectors")
app.command("capture")(capture.capture)
app.command("project")(project.project)
app.command("fingerprint")(fingerprint.fingerprint)
app.command("compare-variants")(compare_variants.compare_variants)
app.command("patch")(patch.patch)
app.command("sweep")(sweep.sweep)
app.command("search")(search.search)
app.command("rescore")(rescore.rescore)
app.command("check-metrics")(check_metrics.check_metrics)
app.add_typer(judge.app, name="judge")
app.add_typer(results.app, name="results")
app.command("sql")(sql.sql)
app.command("dashboard")(dashboard.dashboard)
app.command("report")(report.report)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    run(app)
