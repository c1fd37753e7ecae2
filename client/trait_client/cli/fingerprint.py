"""`trait-client fingerprint`: the traits nearest to a text."""

import asyncio
import dataclasses
import tempfile
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trait_client.cli.console import PROMPT_SETS_HELP, ReadLayers, Url
from trait_client.cli.outcome import print_errors, print_left_out
from trait_client.cli.prompt_set_bar import prompt_set_bar
from trait_client.cli.template_options import Raw, TemplateKwargs, parsed_kwargs
from trait_client.http import AsyncTraitClient
from trait_client.http.settings import DEFAULT_URL
from trait_core.console import EXIT_FAILED, EXIT_PARTIAL, ApiKey, AsJson, complain, out, plain, print_json, print_table
from trait_core.errors import InvalidRequestError
from trait_core.tables import Column, Table

if TYPE_CHECKING:  # DuckDB takes a while to import
    from trait_client.prompt_sets import PromptSets
    from trait_client.prompt_sets.fingerprint import TraitPlace
    from trait_client.prompt_sets.project import ProjectOptions, ProjectOutcome

COLUMNS = ("vector", "layer", "separations", "projection", "cosine")


def fingerprint(
    *,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", help="Text to read as it is, without the chat template; may be repeated."),
    ] = None,
    prompts: Annotated[list[Path] | None, typer.Option("--prompts", "-p", exists=True, help=PROMPT_SETS_HELP)] = None,
    vector: Annotated[
        list[str],
        typer.Option(
            "--vector", "-v", help="Registered vector, or a pattern of names such as 'tonal.*'; may be repeated."
        ),
    ] = ["*"],  # noqa: B006 - typer reads it
    layer: ReadLayers = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens", min=1, help="Generate replies of up to this many tokens for prompts without one (greedy)."
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Traits to print for each text.")] = 5,
    raw: Raw = False,
    template_kwargs: TemplateKwargs = None,
    db: Annotated[
        Path | None,
        typer.Option(
            "--db", dir_okay=False, help="DuckDB file that keeps the projections [default: they are not kept]."
        ),
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Print the traits nearest to each text: its mean projection on every vector, largest first.

    `separations` is the projection over the distance between the vector's two training classes: 0.5 is the average
    positive example, -0.5 the average negative one. The first four positions are left out. With `--db`, the view
    `fingerprints` has all of it.

    Example: `trait-client fingerprint --text "I am so sorry, I cannot help you with that." --top 3`
    """
    from trait_client.prompt_sets.project import ProjectOptions  # noqa: PLC0415

    variables = parsed_kwargs(template_kwargs, raw=raw)
    options = ProjectOptions(vector, sorted(set(layer)) if layer else None, max_tokens, variables, cosine=True)
    sets = _sets(text or [], prompts or [], raw=raw)
    with tempfile.TemporaryDirectory() as folder:
        outcome, places = asyncio.run(_run(sets, options, db or Path(folder) / "fingerprint.duckdb", url, api_key))
    if as_json:
        print_json({"status": outcome.status, "places": [dataclasses.asdict(place) for place in places]})
    else:
        texts = {prompt.prompt_id: prompt.text for prompt in sets.prompts}
        for (prompt_id, part), found in groupby(places, key=lambda place: (place.prompt_id, place.part)):
            _print((texts.get(prompt_id) if text else None) or prompt_id, part, list(found), top)
    print_errors(outcome)
    print_left_out(sets.left_out)
    if (short := _without(sets, places, outcome)) is not None:
        reason = f"{short!r} has no more than four tokens, and the first four positions are left out"
        if text:
            raise InvalidRequestError(f"{reason}: give a longer text", param="text")
        complain(reason, label="note")
    if outcome.status == "partial" or sets.left_out:
        raise typer.Exit(EXIT_PARTIAL if places else EXIT_FAILED)


def _sets(texts: list[str], paths: list[Path], *, raw: bool) -> "PromptSets":
    from trait_client.prompt_sets import PromptSets, read_prompt_sets, text_prompt  # noqa: PLC0415

    if bool(texts) == bool(paths):
        raise InvalidRequestError("give either --text or --prompts", param="text")
    if paths:
        return read_prompt_sets(paths, raw=raw)
    if empty := next((text for text in texts if not text.strip()), None):
        raise InvalidRequestError(f"--text {empty!r} is empty", param="text")
    return PromptSets("texts", list(dict.fromkeys(map(text_prompt, texts))))


async def _run(
    sets: "PromptSets", options: "ProjectOptions", db: Path, url: str, api_key: str | None
) -> "tuple[ProjectOutcome, list[TraitPlace]]":
    from trait_client.prompt_sets.fingerprint import run_fingerprint  # noqa: PLC0415
    from trait_client.results import ResultStore  # noqa: PLC0415

    with prompt_set_bar() as progress:
        async with AsyncTraitClient(url, api_key) as client:
            return await run_fingerprint(sets.prompts, options, client, ResultStore(db), sets.name, progress)


def _without(sets: "PromptSets", places: "list[TraitPlace]", outcome: "ProjectOutcome") -> str | None:
    """The first text that was read and has no place: it is too short."""
    if outcome.status != "ok":
        return None
    placed = {place.prompt_id for place in places}
    return next((prompt.text or prompt.prompt_id for prompt in sets.prompts if prompt.prompt_id not in placed), None)


def _print(name: str, part: str, places: "list[TraitPlace]", top: int) -> None:
    out.print(plain(f"{name} ({part}, {places[0].n} token{'' if places[0].n == 1 else 's'})"), soft_wrap=True)
    rows = [
        [place.vector, str(place.layer), _number(place.separations), _number(place.projection), _number(place.cosine)]
        for place in places[:top]
    ]
    print_table(Table([Column(name, right=name != "vector") for name in COLUMNS], rows))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"
