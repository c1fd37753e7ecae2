"""`trait-client capture`: write the activations of a prompt set to safetensors shards."""

import asyncio
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trait_client.cli.console import At, PromptSetPaths, Url, checked
from trait_client.cli.outcome import print_errors, print_left_out, print_outcome, resumable
from trait_client.cli.prompt_set_bar import prompt_set_bar
from trait_client.cli.template_options import Raw, TemplateKwargs, parsed_kwargs
from trait_client.http import AsyncTraitClient
from trait_client.http.settings import DEFAULT_URL
from trait_core.console import (
    EXIT_FAILED,
    EXIT_PARTIAL,
    ApiKey,
    AsJson,
    complain,
    print_json,
)
from trait_core.schema import RESID_POST, Generation

if TYPE_CHECKING:  # commands that need no numbers start without them
    from trait_client.prompt_sets import CaptureOptions, CaptureOutcome, PromptSets

BATCH_TIMEOUT = 3600.0
"""Seconds for one request: enough for hundreds of prompts on a slow machine."""


def capture(
    *,
    prompts: PromptSetPaths,
    to: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder of the shards.")],
    positions: Annotated[
        list[str],
        typer.Option("--positions", help="Token positions to pool, for example prompt[-1]; may be repeated."),
    ] = ["response[:]"],  # noqa: B006 - typer reads it
    layers: Annotated[str, typer.Option("--layers", "-l", help="Layers: 8-20, or 9,13,17, or all.")] = "all",
    at: At = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens", min=1, help="Generate replies of up to this many tokens for prompts without one (greedy)."
        ),
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Prompts per shard.")] = 256,
    raw: Raw = False,
    template_kwargs: TemplateKwargs = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Capture pooled activations of thousands of prompts.

    Prompts that the folder already holds are not captured again: after an interruption, run the same command. Exit
    code 3 if some prompts are missing, or a file of a folder could not be read.

    Example: `trait-client capture --prompts prompts.jsonl --layers 8-20 --positions "response[:]" --out captured`
    """
    from trait_client.prompt_sets import CaptureOptions, parse_layers, read_prompt_sets  # noqa: PLC0415

    options = checked(
        CaptureOptions,
        positions=positions,
        layers=parse_layers(layers),
        at=at or RESID_POST,
        generate=None if max_tokens is None else checked(Generation, max_tokens=max_tokens),
        shard_size=shard_size,
        chat_template_kwargs=parsed_kwargs(template_kwargs, raw=raw),
    )
    sets = read_prompt_sets(prompts, raw=raw)
    with resumable(f"finished shards are in {to}"):
        outcome = asyncio.run(_run(sets, options, to, url, api_key))
    if as_json:
        print_json(dataclasses.asdict(outcome) | {"out": str(to), "left_out": sets.left_out})
    else:
        print_outcome(outcome, f"{outcome.n_shards} shards are in {to}: read_capture({str(to)!r}) reads them")
    for name in outcome.damaged:
        complain(f"{to / name} was damaged and has been captured again")
    print_errors(outcome)
    print_left_out(sets.left_out)
    if outcome.status == "partial" or sets.left_out:
        raise typer.Exit(EXIT_PARTIAL if outcome.n_resumed + outcome.n_captured else EXIT_FAILED)


async def _run(
    sets: "PromptSets", options: "CaptureOptions", folder: Path, url: str, api_key: str | None
) -> "CaptureOutcome":
    from trait_client.prompt_sets import run_capture  # noqa: PLC0415

    with prompt_set_bar() as progress:
        async with AsyncTraitClient(url, api_key, timeout=BATCH_TIMEOUT) as client:
            return await run_capture(sets.prompts, options, client, folder, progress)
