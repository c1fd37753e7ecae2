"""`trait-client project`: store the per-token projections of a prompt set."""

import asyncio
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trait_client.cli.console import Database, PromptSetPaths, ReadLayers, Url
from trait_client.cli.outcome import print_errors, print_left_out, print_outcome, resumable
from trait_client.cli.prompt_set_bar import prompt_set_bar
from trait_client.cli.template_options import Raw, TemplateKwargs, parsed_kwargs
from trait_client.http import AsyncTraitClient
from trait_client.http.settings import DEFAULT_DATABASE, DEFAULT_URL
from trait_core.console import (
    EXIT_FAILED,
    EXIT_PARTIAL,
    ApiKey,
    AsJson,
    print_json,
)

EXAMPLE_QUERY = "select * from token_projections limit 20"

if TYPE_CHECKING:  # DuckDB takes a while to import
    from trait_client.prompt_sets import PromptSets
    from trait_client.prompt_sets.project import ProjectOptions, ProjectOutcome


def project(
    *,
    prompts: PromptSetPaths,
    vector: Annotated[
        list[str],
        typer.Option(
            "--vector", "-v", help="Registered vector, or a pattern of names such as 'tonal.*' or '*'; may be repeated."
        ),
    ],
    layer: ReadLayers = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens", min=1, help="Generate replies of up to this many tokens for prompts without one (greedy)."
        ),
    ] = None,
    cosine: Annotated[
        bool, typer.Option("--cosine", help="Store cosines too; the tokens are read once more for them.")
    ] = False,
    raw: Raw = False,
    template_kwargs: TemplateKwargs = None,
    db: Database = DEFAULT_DATABASE,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Store the projection of every token of a prompt set with its text, for queries on the view `token_projections`.

    Prompts that the database already holds are not run again; a new vector is added to the same tokens. Hundreds of
    vectors are taken at once; what one request cannot hold is taken in several passes. Exit code 3
    if some prompts failed, or a file of a folder could not be read.

    Example: `trait-client project --prompts prompts.jsonl --vector refusal --max-tokens 64 --db results.duckdb`
    """
    from trait_client.prompt_sets import read_prompt_sets  # noqa: PLC0415
    from trait_client.prompt_sets.project import ProjectOptions  # noqa: PLC0415

    variables = parsed_kwargs(template_kwargs, raw=raw)
    options = ProjectOptions(vector, sorted(set(layer)) if layer else None, max_tokens, variables, cosine)
    sets = read_prompt_sets(prompts, raw=raw)
    with resumable(f"finished prompts are in {db}"):
        outcome = asyncio.run(_run(sets, options, db, url, api_key))
    if as_json:
        print_json(dataclasses.asdict(outcome) | {"db": str(db), "left_out": sets.left_out})
    else:
        print_outcome(outcome, f'trait-client sql "{EXAMPLE_QUERY}" --db {db}')
    print_errors(outcome)
    print_left_out(sets.left_out)
    if outcome.status == "partial" or sets.left_out:
        raise typer.Exit(EXIT_PARTIAL if outcome.n_resumed + outcome.n_projected else EXIT_FAILED)


async def _run(
    sets: "PromptSets", options: "ProjectOptions", db: Path, url: str, api_key: str | None
) -> "ProjectOutcome":
    from trait_client.prompt_sets.project import run_project  # noqa: PLC0415
    from trait_client.results import ResultStore  # noqa: PLC0415

    with prompt_set_bar() as progress:
        async with AsyncTraitClient(url, api_key) as client:
            return await run_project(sets.prompts, options, client, ResultStore(db), sets.name, progress)
