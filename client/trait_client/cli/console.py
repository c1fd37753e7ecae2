"""Options, progress and checks that several commands of `trait-client` share."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from trait_client.http.settings import URL_VARIABLE
from trait_core.console import err
from trait_core.errors import InvalidRequestError, first_fault
from trait_core.schema import HookPoint

CLI_RETRIES = 1
"""Retries of a request; a person at a terminal would rather see the error than wait."""

Url = Annotated[
    str, typer.Option("--url", envvar=URL_VARIABLE, help="Address of the service.", rich_help_panel="Service")
]
Database = Annotated[Path, typer.Option("--db", dir_okay=False, help="DuckDB file of the results.")]
Datasets = Annotated[
    Path | None,
    typer.Option(
        "--datasets",
        exists=True,
        file_okay=False,
        help="Folder of `<category>/<trait>`. Default: ./datasets/traits if it exists, else the installed traits.",
    ),
]
PROMPT_SETS_HELP = (
    "Prompt set, or a folder of them; may be repeated. A .json file (prompts with id, text and further fields), .jsonl (prompt, "
    "messages or text; response, id, outcome) or .txt (one user turn per line)."
)
PromptSetPaths = Annotated[list[Path], typer.Option("--prompts", "-p", exists=True, help=PROMPT_SETS_HELP)]
ReadLayers = Annotated[
    list[int] | None,
    typer.Option("--layer", "-l", min=0, help="Layer; may be repeated [default: each vector's chosen layer]."),
]
At = Annotated[
    HookPoint | None,
    typer.Option(
        "--at",
        help="Place in a block: resid_post (the stream behind it), attn_out or mlp_out (what its attention or MLP adds; needs a "
        "service with --hook-points). Default: where the vector was made, else resid_post.",
    ),
]

M = TypeVar("M", bound=BaseModel)


@contextlib.contextmanager
def progress(message: str) -> Iterator[None]:
    """A spinner on stderr during the work; no output where stderr is not a terminal."""
    if err.is_terminal:
        with err.status(message):
            yield
    else:
        yield


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr, moved by `show(done, total, description)`; no output where stderr is not a terminal."""
    if not err.is_terminal:
        yield lambda *_: None
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=text)


def checked(model: type[M], **fields: Any) -> M:
    """Build a request from options.

    Raises:
        InvalidRequestError: The wire schema refuses an option's value; the message names the option.
    """
    try:
        return model(**fields)
    except ValidationError as error:
        fault = first_fault(error)
        if not fault.loc:
            raise InvalidRequestError(fault.reason) from error
        where = str(fault.loc[0])
        raise InvalidRequestError(f"{where} {fields[where]!r} is refused: {fault.reason}", param=where) from error
