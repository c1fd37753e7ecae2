"""`trait-client search`: find the strongest coherent coefficient, on the layer where it has the largest effect."""

import asyncio
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trait_client.cli.console import Database, Datasets, Url, checked, progress_bar
from trait_client.cli.outcome import print_errors, resumable
from trait_client.cli.sql import print_rows
from trait_client.cli.template_options import Raw, TemplateKwargs, parsed_kwargs
from trait_client.http import AsyncTraitClient
from trait_client.http.settings import DEFAULT_DATABASE, DEFAULT_URL
from trait_core.console import (
    EXIT_FAILED,
    EXIT_PARTIAL,
    ApiKey,
    AsJson,
    complain,
    out,
    plain,
    print_json,
)
from trait_core.traits import default_traits_folder

if TYPE_CHECKING:
    from trait_client.results import ResultStore
    from trait_client.sweeps import SweepProgress
    from trait_client.sweeps.experiment import Experiment
    from trait_client.sweeps.search import SearchOutcome, SearchSettings


PASSAGES = 20
"""Neutral passages that --max-kl is measured on."""


def search(
    *,
    trait: Annotated[
        list[str], typer.Option("--trait", "-t", help="Trait; may be repeated, and all traits share the batches.")
    ],
    layers: Annotated[
        str, typer.Option("--layers", "-l", help="Layers: 8-20, or 9,13,17, or all of the vector file's layers.")
    ] = "all",
    method: Annotated[str, typer.Option(help="Extraction method of the vectors.")] = "mean_diff",
    strategy: Annotated[
        str, typer.Option(help="climb: one coefficient per step. bracket: several around the coherence limit per step.")
    ] = "climb",
    steps: Annotated[int, typer.Option("--search-steps", min=1, max=50, help="Number of steps, each one batch.")] = 4,
    start: Annotated[
        float | None,
        typer.Option(help="First relative dose [default: 0.7 for models of width 2048 and more, else 0.2]."),
    ] = None,
    up_mult: Annotated[float, typer.Option(help="Factor for the coefficient while replies are coherent.")] = 1.3,
    down_mult: Annotated[float, typer.Option(help="Factor while they are not.")] = 0.85,
    momentum: Annotated[
        float, typer.Option(help="Share of the last step that is added to the next, from 0 to below 1.")
    ] = 0.5,
    width: Annotated[int, typer.Option(min=1, max=32, help="Coefficients per step of bracket.")] = 3,
    bar: Annotated[float, typer.Option(min=0, max=100, help="Mean coherence that counts as coherent.")] = 75.0,
    max_kl: Annotated[
        float | None,
        typer.Option(
            "--max-kl",
            min=0.0001,
            help="Instead of --bar: largest KL to the unsteered model on neutral passages, nats per token. 0.05 is hardly noticeable.",
        ),
    ] = None,
    random_directions: Annotated[
        int, typer.Option("--random", min=0, max=64, help="Number of random directions tested at the best settings.")
    ] = 4,
    datasets: Datasets = None,
    n_prompts: Annotated[int, typer.Option(min=1, help="Number of questions per trait, from the first.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, tokens.")] = 48,
    raw: Raw = False,
    template_kwargs: TemplateKwargs = None,
    db: Database = DEFAULT_DATABASE,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Search for the layer and coefficient with the largest delta in the trait's direction among the coherent settings.

    Every step runs all layers and traits in one batch. The best settings are stored, with random directions at the same
    doses, and `trait-client steer --trait` uses them. With --max-kl a setting must change neutral texts by at most that much, instead
    of being coherent. Exit code 3 if a trait has no such setting.

    Example: `trait-client search --trait refusal --trait sycophancy --layers 9,13,17`
    """
    from trait_client.prompt_sets import parse_layers  # noqa: PLC0415
    from trait_client.results import ResultStore  # noqa: PLC0415
    from trait_client.sweeps.experiment import Experiment  # noqa: PLC0415
    from trait_client.sweeps.search import SearchSettings  # noqa: PLC0415

    settings = checked(
        SearchSettings, strategy=strategy, steps=steps, start=start, up_mult=up_mult, down_mult=down_mult,
        momentum=momentum, width=width, bar=bar, max_kl=max_kl,
    )  # fmt: skip
    values: dict[str, Any] = {
        "name": f"search {' '.join(trait)}",
        "traits": trait,
        "datasets": str((datasets or default_traits_folder()).absolute()),
        "methods": [method],
        "layers": parse_layers(layers) or "chosen",
        "coefficients": [0.0],
        "n_prompts": n_prompts,
        "max_tokens": max_tokens,
        "control": {"random_directions": random_directions},
        "raw": raw,
        "chat_template_kwargs": parsed_kwargs(template_kwargs, raw=raw),
        **({} if max_kl is None else {"damage": {"passages": PASSAGES, "questions": 0}}),
    }
    with resumable(f"finished trials are in {db}"):
        outcome = asyncio.run(_run(Experiment.from_values(values), settings, ResultStore(db), url, api_key))
    if as_json:
        print_json(_document(outcome, db))
    else:
        _print(outcome, db)
    for name, _, why in outcome.nothing:
        complain(f"{name}: nothing found: {why}")
    print_errors(outcome)
    if outcome.nothing or outcome.errors:
        raise typer.Exit(EXIT_PARTIAL if outcome.best else EXIT_FAILED)


async def _run(
    experiment: "Experiment", settings: "SearchSettings", store: "ResultStore", url: str, api_key: str | None
) -> "SearchOutcome":
    from trait_client.sweeps.search import run_search  # noqa: PLC0415

    with progress_bar() as move:

        def show(now: "SweepProgress") -> None:
            move(now.trials_done + now.scored, 2 * now.trials_total, f"{now.trials_done} of {now.trials_total} replies")

        async with AsyncTraitClient(url, api_key) as client:
            return await run_search(experiment, settings, client, store, show)


def _document(outcome: "SearchOutcome", db: Path) -> dict[str, Any]:
    best = [dataclasses.asdict(row) | {"found_at": row.found_at.isoformat()} for row in outcome.best]
    nothing = [{"trait": name, "method": method, "reason": why} for name, method, why in outcome.nothing]
    return {"run_id": outcome.run_id, "best": best, "nothing": nothing, "n_trials": outcome.n_trials, "db": str(db)}


def _print(outcome: "SearchOutcome", db: Path) -> None:
    columns = [
        "trait",
        "layer",
        "coefficient",
        "delta",
        "ci_low",
        "ci_high",
        "n",
        "coherence",
        "kl",
        "verdict",
        "trials",
    ]
    rows = [
        (r.trait, r.layer, r.coefficient, r.delta, r.ci_low, r.ci_high, r.n, r.coherence, r.kl, r.verdict, r.n_trials)
        for r in outcome.best
    ]
    print_rows(columns, rows)
    out.print(plain(f"stored in {db} (table searches); `trait-client steer --trait` uses it"), soft_wrap=True)
