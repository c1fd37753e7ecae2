"""`trait-client compare-variants`: a base model against a fine-tune or an adapter, on the same tokens."""

import asyncio
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from trait_client.cli.console import Database, PromptSetPaths, ReadLayers, Url, progress_bar
from trait_client.cli.outcome import print_errors, print_left_out, print_outcome, resumable
from trait_client.cli.template_options import Raw, TemplateKwargs, parsed_kwargs
from trait_client.http.settings import DEFAULT_DATABASE, DEFAULT_URL
from trait_core.console import EXIT_FAILED, EXIT_PARTIAL, ApiKey, AsJson, out, plain, print_json, print_table
from trait_core.errors import InvalidRequestError
from trait_core.tables import Column, Table

if TYPE_CHECKING:  # DuckDB takes a while to import
    from trait_client.prompt_sets import SetPrompt
    from trait_client.variants import CompareOptions, ComparisonOutcome, Responses, StoredComparison

CHOICES = ("base", "variant", "both", "given")
SPANS_SHOWN = 3
EXAMPLE_QUERY = "select * from variant_differences limit 20"
TEXTS = {
    "own": "each model's own reply",
    "base": "the base's reply",
    "variant": "the variant's reply",
    "given": "the given reply",
    "prompt": "the prompt",
}


def compare_variants(
    *,
    prompts: PromptSetPaths,
    vector: Annotated[
        list[str],
        typer.Option("--vector", "-v", help="Vector of the base, or a pattern such as `tonal.*`; may be repeated."),
    ],
    variant: Annotated[
        str, typer.Option("--variant", help="The other model: NAME (an adapter) at --url, URL, or URL#NAME.")
    ],
    base: Annotated[
        str | None,
        typer.Option("--base", help="The first model, written in the same way [default: the base model at --url]."),
    ] = None,
    layer: ReadLayers = None,
    responses_from: Annotated[
        str | None,
        typer.Option(
            "--responses-from",
            metavar="|".join(CHOICES),
            help="Whose replies both models read; both: each model's, and each its own "
            "[default: given if the set has responses, else both].",
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Longest reply that is generated (greedy).")
    ] = 64,
    raw: Raw = False,
    template_kwargs: TemplateKwargs = None,
    db: Database = DEFAULT_DATABASE,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Compare two models on the same tokens: projections token by token, effects beside random directions, largest spans.

    An effect is `found` if its interval excludes 0 and its d_z lies beyond 95 % of random directions on the same layer.
    Readings that the database holds are not taken again. Exit code 3 if some failed,
    or a file of a folder could not be read.

    Example: `trait-client compare-variants --prompts prompts.jsonl --vector refusal --variant my-adapter --db results.duckdb`
    """
    from trait_client.prompt_sets import read_prompt_sets  # noqa: PLC0415
    from trait_client.results import ResultStore  # noqa: PLC0415
    from trait_client.results.json_values import json_value  # noqa: PLC0415
    from trait_client.variants import CompareOptions, read_comparison  # noqa: PLC0415

    variables = parsed_kwargs(template_kwargs, raw=raw)
    layers = sorted(set(layer)) if layer else None
    options = CompareOptions(vector, layers, _choice(responses_from), max_tokens, variables)
    sets = read_prompt_sets(prompts, raw=raw)
    with resumable(f"finished readings are in {db}"):
        outcome = asyncio.run(_run(sets.prompts, options, (base, variant), db, sets.name, url, api_key))
    with ResultStore(db).reader() as reader:
        stored = read_comparison(reader, outcome.comparison_id, most_spans=20 if as_json else SPANS_SHOWN)
    if as_json:
        document = dataclasses.asdict(outcome) | {"db": str(db)} | dataclasses.asdict(stored)
        print_json(json_value(document))
    else:
        _print(stored)
        print_outcome(outcome, f'trait-client sql "{EXAMPLE_QUERY}" --db {db}')
    print_errors(outcome)
    print_left_out(sets.left_out)
    if outcome.status == "partial" or sets.left_out:
        raise typer.Exit(EXIT_PARTIAL if outcome.n_compared else EXIT_FAILED)


def _choice(text: str | None) -> "Responses | None":
    if text is not None and text not in CHOICES:
        raise InvalidRequestError(
            f"{text!r} is not one of {', '.join(CHOICES)}: say whose replies both models read", param="responses_from"
        )
    return cast("Responses | None", text)


async def _run(
    prompts: "list[SetPrompt]",
    options: "CompareOptions",
    sides: tuple[str | None, str],
    db: Path,
    name: str,
    url: str,
    api_key: str | None,
) -> "ComparisonOutcome":
    from trait_client.results import ResultStore  # noqa: PLC0415
    from trait_client.variants import opened_sides, run_comparison  # noqa: PLC0415

    with progress_bar() as move:

        def show(done: int, planned: int, failed: int, tokens: int) -> None:
            losses = f", {failed} failed" if failed else ""
            move(done, planned, f"{done} of {planned} readings{losses}, {tokens} tokens")

        async with opened_sides(*sides, url, api_key) as (base, variant):
            return await run_comparison(prompts, options, base, variant, ResultStore(db), name, show)


def _print(stored: "StoredComparison") -> None:
    """A table of effects for each vector and layer, then its largest spans."""
    comparison = stored.comparison
    out.print(
        plain(f"{comparison['variant_model']} minus {comparison['base_model']}, {comparison['name']}"), soft_wrap=True
    )
    directions = dict.fromkeys((row["vector"], row["layer"]) for row in stored.effects)
    for name, layer in directions:
        effects = [row for row in stored.effects if (row["vector"], row["layer"]) == (name, layer)]
        print_table(_effects(f"{name}, layer {layer}", effects))
        for span in stored.spans:
            if (span["vector"], span["layer"]) == (name, layer) and span["text"] != "prompt":
                _print_span(span)


def _effects(title: str, rows: list[dict[str, Any]]) -> Table:
    numbers = ("n", "base", "variant", "difference", "95 %", "separations", "d_z", "random d_z")
    columns = [Column("text"), *(Column(heading, right=True) for heading in numbers), Column("verdict")]
    optional = {"base", "variant"}
    columns = [dataclasses.replace(column, optional=column.heading in optional) for column in columns]
    cells = [
        [
            TEXTS[row["text"]],
            str(row["n"]),
            f"{row['base']:.3g}",
            f"{row['variant']:.3g}",
            f"{row['difference']:+.3g}",
            "-" if row["low"] is None else f"{row['low']:.3g}..{row['high']:.3g}",
            _number(row["separations"], "+.2f"),
            _number(row["dz"], "+.2f"),
            _number(row["random_dz"], ".2f"),
            row["verdict"],
        ]
        for row in rows
    ]
    found = [i for i, row in enumerate(rows) if row["verdict"] == "found"]
    return Table(columns, cells, title=title, marked=found)


def _print_span(span: dict[str, Any]) -> None:
    """One line: mean |difference| and mean difference, prompt, and the text with the span between brackets."""
    text = f"{span['before']}⟦{span['words']}⟧{span['after']}".replace("\n", "⏎")
    out.print(
        plain(f"  {span['size']:.3g} ({span['difference']:+.3g})  {TEXTS[span['text']]}, {span['prompt_id']}: {text}"),
        soft_wrap=True,
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
