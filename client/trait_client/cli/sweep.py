"""`trait-client sweep`: run an experiment's cells on every prompt and store the results."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trait_client.cli.console import Database, Url, progress_bar
from trait_client.cli.dry_run import print_dry_run
from trait_client.cli.judge_options import JUDGE_PANEL, JudgeOptions, judge_options, usage_text
from trait_client.cli.outcome import print_errors, print_outcome, resumable
from trait_client.http import AsyncTraitReplicas
from trait_client.http.settings import DEFAULT_DATABASE, DEFAULT_URL
from trait_core.console import (
    EXIT_FAILED,
    EXIT_PARTIAL,
    ApiKey,
    AsJson,
    complain,
    err,
    out,
    plain,
    print_json,
)

if TYPE_CHECKING:  # DuckDB takes a while to import, and only sweep and sql need it
    from trait_client.results import ResultStore
    from trait_client.sweeps import ProgressCallback, ServiceOutcome, SweepOutcome, SweepProgress
    from trait_client.sweeps.experiment import Experiment


@judge_options
def sweep(
    file: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT.toml", exists=True, dir_okay=False, help="Experiment to run.")
    ],
    *,
    db: Database = DEFAULT_DATABASE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the grid and a time estimate; no service is needed.")
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Tokens per second for the estimate [default: the rate of the last sweep in --db]."
        ),
    ] = None,
    as_json: AsJson = False,
    no_judge: Annotated[
        bool, typer.Option("--no-judge", help="Do not use the experiment's judge.", rich_help_panel=JUDGE_PANEL)
    ] = False,
    judge: JudgeOptions,
    url: Url = DEFAULT_URL,
    service: Annotated[
        list[str] | None,
        typer.Option(
            "--service",
            help="Address of a replica, instead of --url; may be repeated, and all replicas are kept busy.",
            rich_help_panel="Service",
        ),
    ] = None,
    api_key: ApiKey = None,
) -> None:
    """Run every cell of an experiment on every prompt, and score the replies.

    Trials that the database already holds are not run again: after an interruption, run the same command. Exit code 3
    if trials failed or scores are missing; `trait-client rescore` fetches missing scores of a judge. If one of several
    replicas (--service) disappears, its unfinished requests are retried on the others. An experiment that names its
    services (`[precision.NAME]`) runs on each in turn, and starts those that have no address; it ignores --url and
    --service.

    Example: `trait-client sweep experiments/layers/experiment.toml --db results.duckdb`
    """
    from trait_client.results import ResultStore  # noqa: PLC0415
    from trait_client.sweeps.experiment import Experiment  # noqa: PLC0415

    experiment = Experiment.load(file)
    chosen = judge.config(None if no_judge else experiment.judge)
    experiment = experiment.model_copy(update={"judge": chosen})
    if dry_run:
        print_dry_run(experiment, db, rate, as_json=as_json)
        return
    with resumable(f"finished trials are in {db}"):
        outcomes = asyncio.run(_run(experiment, ResultStore(db), service or [url], api_key))
    if as_json:
        print_json(_document(outcomes) | {"db": str(db)})
    for each in outcomes:
        if not as_json and each.outcome is not None:
            print_outcome(each.outcome, *_judge_lines(each.outcome, db), label=_label(each))
        _complain(each)
    if not as_json:
        out.print(plain(f"results are in {db}: see `trait-client sql --help`"), soft_wrap=True)
    if any(each.outcome is None or each.outcome.status == "partial" for each in outcomes):
        done = sum(each.outcome.trials_run + each.outcome.trials_resumed for each in outcomes if each.outcome)
        raise typer.Exit(EXIT_PARTIAL if done else EXIT_FAILED)


async def _run(
    experiment: "Experiment", store: "ResultStore", addresses: list[str], api_key: str | None
) -> "list[ServiceOutcome]":
    from trait_client.sweeps import ServiceOutcome, run_sweep, sweep_services  # noqa: PLC0415

    with _progress() as progress:
        if isinstance(experiment.precision, dict):
            return await sweep_services(experiment, store, api_key, _begin, progress)
        async with AsyncTraitReplicas(addresses, api_key) as client:
            return [ServiceOutcome("", await run_sweep(experiment, client, store, progress), None)]


def _begin(precision: str) -> None:
    err.print(plain(f"precision {precision}"))


def _document(outcomes: "list[ServiceOutcome]") -> dict[str, Any]:
    """The outcome as JSON values; by precision if the experiment names its services."""
    documents = {
        each.precision: dataclasses.asdict(each.outcome) if each.outcome else {"error": str(each.error)}
        for each in outcomes
    }
    return documents.get("") or {"precisions": documents}


def _complain(each: "ServiceOutcome") -> None:
    label = f"precision {_label(each)}" if each.precision else ""
    if each.error is not None:
        complain(f"{label}nothing was run: {each.error}")
    if each.outcome is not None:
        print_errors(each.outcome, label)


def _label(each: "ServiceOutcome") -> str:
    return f"{each.precision}: " if each.precision else ""


@contextlib.contextmanager
def _progress() -> Iterator["ProgressCallback"]:
    with progress_bar() as move:

        def show(now: "SweepProgress") -> None:
            failed = f", {now.trials_failed} failed" if now.trials_failed else ""
            speed = f", {now.tokens / now.seconds:.0f} tokens/s" if now.seconds else ""
            description = f"{now.trials_done} of {now.trials_total} replies, {now.scored} scored{failed}{speed}"
            move(now.trials_done + now.scored, 2 * now.trials_total, description)

        yield show


def _judge_lines(outcome: "SweepOutcome", db: Path) -> list[str]:
    lines = [] if outcome.judge is None else [usage_text(outcome.judge)]
    if outcome.judge_pending:
        lines.append(
            f"{outcome.judge_pending} scores of the judge are pending: "
            f"trait-client rescore {outcome.run_id[:8]} --db {db}"
        )
    return lines
