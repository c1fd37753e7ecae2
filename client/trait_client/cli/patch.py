"""`trait-client patch`: which position and layer carry an answer."""

import asyncio
import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trait_client.cli.console import Url, checked, progress_bar
from trait_client.cli.outcome import print_outcome, resumable
from trait_client.cli.template_options import Raw, TemplateKwargs, parsed_kwargs
from trait_client.http import AsyncTraitClient
from trait_client.http.settings import DEFAULT_URL
from trait_core.console import ApiKey, AsJson, complain, out, plain, print_json, print_table
from trait_core.errors import InvalidRequestError
from trait_core.schema import Message, PatchPrompt, PatchRequest
from trait_core.tables import Column, Table

if TYPE_CHECKING:  # DuckDB takes a while to import
    from trait_client.patching import PatchOutcome, StoredPatching

COLUMNS = 12
"""Positions that are printed: those that restore most somewhere."""

EXAMPLE_QUERY = "select * from patch_cells order by restored desc limit 20"


def patch(
    *,
    source: Annotated[str, typer.Option("--source", help="Prompt whose streams are put into the target.")],
    target: Annotated[str, typer.Option("--target", help="Prompt that is run with them.")],
    answers: Annotated[
        tuple[str, str],
        typer.Option("--answers", metavar="SOURCE TARGET", help="The two answers; their first tokens are compared."),
    ],
    span: Annotated[
        tuple[str, str] | None,
        typer.Option("--span", metavar="SOURCE TARGET", help="A text in each prompt; the prompts are aligned by them."),
    ] = None,
    layer: Annotated[
        list[int] | None, typer.Option("--layer", "-l", min=0, help="Layer; may be repeated [default: every one].")
    ] = None,
    positions: Annotated[
        str | None,
        typer.Option("--positions", help="Positions of the target to patch, such as 'prompt[-4:]' [default: all]."),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            "--part", help="Patch the positions of a part together: before, span, behind or all; may be repeated."
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at", help="Hook point: resid_post, attn_out or mlp_out; may be repeated [default: resid_post]."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Served model or adapter [default: the base model].")
    ] = None,
    raw: Raw = False,
    template_kwargs: TemplateKwargs = None,
    db: Annotated[
        Path | None,
        typer.Option("--db", dir_okay=False, help="DuckDB file that keeps the cells [default: they are not kept]."),
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Patch the target with streams of the source, one position and layer at a time, and print what each restores.

    The metric is the log-probability of the source's answer minus that of the target's. A cell restores 0 where the target
    answers as before, and 1 where it answers as the source does.

    Example: `trait-client patch --raw --source "The capital of France is" --target "The capital of Italy is"
    --span France Italy --answers " Paris" " Rome"`
    """
    from trait_client.results.json_values import json_value  # noqa: PLC0415

    variables = parsed_kwargs(template_kwargs, raw=raw)
    spans = span or (None, None)
    prompts = [
        _prompt(text, each, answer, variables, raw=raw)
        for text, each, answer in zip((source, target), spans, answers, strict=True)
    ]
    fields = {"layers": sorted(set(layer)) if layer else None, "positions": positions, "parts": part}
    request = checked(PatchRequest, source=prompts[0], target=prompts[1], **fields, **({"at": at} if at else {}))
    request = request.model_copy(update={"model": model})
    name = " <- ".join(reversed(span)) if span else "patch"
    with tempfile.TemporaryDirectory() as folder, resumable("finished layers are stored"):
        outcome, stored = asyncio.run(_run(request, db or Path(folder) / "patch.duckdb", name, url, api_key))
    if as_json:
        print_json(json_value(dataclasses.asdict(outcome) | dataclasses.asdict(stored)))
        return
    _print(stored)
    print_outcome(outcome, *([f'trait-client sql "{EXAMPLE_QUERY}" --db {db}'] if db else []))


def _prompt(text: str, span: str | None, answer: str, variables: dict[str, Any] | None, *, raw: bool) -> PatchPrompt:
    if not text.strip():
        raise InvalidRequestError(f"the prompt {text!r} is empty", param="source")
    content = {"text": text} if raw else {"messages": [Message(role="user", content=text)]}
    return checked(PatchPrompt, **content, span=span, answer=answer, chat_template_kwargs=variables)


async def _run(
    request: PatchRequest, db: Path, name: str, url: str, api_key: str | None
) -> "tuple[PatchOutcome, StoredPatching]":
    from trait_client.patching import read_patching, run_patch  # noqa: PLC0415
    from trait_client.results import ResultStore  # noqa: PLC0415

    store = ResultStore(db)
    with progress_bar() as move:

        def show(done: int, planned: int) -> None:
            move(done, planned, f"{done} of {planned} layers")

        async with AsyncTraitClient(url, api_key) as client:
            outcome = await run_patch(request, client, store, name, show)
    with store.reader() as reader:
        return outcome, read_patching(reader, outcome.patching_id)


def _print(stored: "StoredPatching") -> None:
    found = stored.patching
    first, second = map(repr, found["answer_tokens"])
    out.print(
        plain(
            f"log p({first}) - log p({second}), nats: source {found['source_difference']:+.2f}, "
            f"target {found['target_difference']:+.2f}"
        ),
        soft_wrap=True,
    )
    if found["source_difference"] <= 0 <= found["target_difference"]:
        complain("neither prompt prefers its own answer: the shares say little", label="note")
    for which in ("source", "target"):
        if left := found[f"{which}_left_out"]:
            named = ", ".join(f"{i} {found[f'{which}_tokens'][i]!r}" for i in left)
            out.print(plain(f"without a partner in the {which}: {named}"), soft_wrap=True)
    for point in dict.fromkeys(cell["hook_point"] for cell in stored.cells):
        print_table(_table(found, [cell for cell in stored.cells if cell["hook_point"] == point], point))


def _table(found: dict[str, Any], cells: list[dict[str, Any]], point: str) -> Table:
    """Restored shares: layers down, positions or parts across."""
    places: dict[tuple[int, int, str], float] = {}
    for cell in cells:
        place = _place(cell)
        places[place] = max(places.get(place, 0.0), abs(cell["restored"] or 0.0))
    largest = sorted(sorted(places, key=lambda place: -places[place])[:COLUMNS])
    shares = {(cell["layer"], _place(cell)): cell["restored"] for cell in cells}
    headings = [
        f"{position} {found['target_tokens'][position]!r}" if n == 1 else f"{part} ({n})"
        for n, position, part in largest
    ]
    rows = [
        [str(layer), *(_share(shares.get((layer, place))) for place in largest)]
        for layer in dict.fromkeys(cell["layer"] for cell in cells)
    ]
    shown = "" if len(largest) == len(places) else f", the {len(largest)} of {len(places)} positions that restore most"
    columns = [Column("layer", right=True), *(Column(heading, right=True) for heading in headings)]
    return Table(columns, rows, title=f"restored share at {point}{shown}")


def _place(cell: dict[str, Any]) -> tuple[int, int, str]:
    return cell["n"], cell["position"], cell["part"]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"
