"""`trait-client rescore`: judge the stored replies of a run that lack the judge's scores."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from trait_client.cli.console import Database, progress
from trait_client.cli.judge_options import JudgeOptions, judge_options, usage_text
from trait_client.cli.outcome import print_errors, print_outcome, resumable
from trait_client.http.settings import DEFAULT_DATABASE
from trait_core.console import EXIT_PARTIAL, AsJson, print_json


@judge_options
def rescore(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's id, its first characters, an experiment's name, or latest.")
    ],
    *,
    db: Database = DEFAULT_DATABASE,
    datasets: Annotated[
        Path | None,
        typer.Option(
            "--datasets",
            exists=True,
            file_okay=False,
            help="Folder of rubrics [default: the rubrics stored with the run].",
        ),
    ] = None,
    as_json: AsJson = False,
    judge: JudgeOptions,
) -> None:
    """Judge stored replies of a run that lack a score of the judge. No service is contacted.

    The run's own judge is used, unless the options name another one. Exit code 3 if scores are still pending.

    Example: `trait-client rescore latest --db results.duckdb`
    """
    from trait_client.results import ResultStore  # noqa: PLC0415 - DuckDB takes a while to import
    from trait_client.sweeps.rescore import judge_of_run  # noqa: PLC0415
    from trait_client.sweeps.rescore import rescore as rescore_run  # noqa: PLC0415

    store = ResultStore(db)
    config = judge.config(judge_of_run(store, run))
    with resumable(f"finished judgements are in {db}"), progress("judging"):
        outcome = asyncio.run(rescore_run(store, run, config, datasets))
    if as_json:
        print_json(dataclasses.asdict(outcome) | {"db": str(db)})
    else:
        print_outcome(outcome, usage_text(outcome.judge))
    print_errors(outcome)
    if outcome.status == "partial":
        raise typer.Exit(EXIT_PARTIAL)
