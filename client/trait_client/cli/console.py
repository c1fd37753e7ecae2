"""What every command shares: consoles, options, JSON output, progress, exit codes."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from trait_client.http.settings import API_KEY_VARIABLE, DEFAULT_URL, URL_VARIABLE
from trait_core.errors import InvalidRequestError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_INTERRUPTED = 130

CLI_RETRIES = 1
"""A person at a terminal would rather know than wait."""

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Url = Annotated[
    str, typer.Option("--url", envvar=URL_VARIABLE, help="Address of the service.", rich_help_panel="Service")
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar=API_KEY_VARIABLE,
        show_default=False,
        help="Key the service was started with.",
        rich_help_panel="Service",
    ),
]
Database = Annotated[Path, typer.Option("--db", dir_okay=False, help="DuckDB file of the results.")]
PromptSet = Annotated[
    Path,
    typer.Option(
        "--prompts",
        "-p",
        exists=True,
        dir_okay=False,
        help="Prompt set: .jsonl (prompt, messages or text; response, id, outcome) or .txt (a user turn a line).",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]

DEFAULT_ADDRESS = DEFAULT_URL

M = TypeVar("M", bound=BaseModel)


def complain(error: Exception | str) -> None:
    """One line on stderr."""
    line = " ".join(str(error).split())
    err.print(Text.assemble(("error: ", "bold red"), plain(line)), soft_wrap=True)


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout.

    Raises:
        ValueError: It holds a number that JSON has no word for.
    """
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain(text: str) -> Text:
    """Text of a model or a service, with control characters made visible: it cannot move the terminal's cursor."""
    return Text("".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text))


@contextlib.contextmanager
def progress(message: str) -> Iterator[None]:
    """A spinner on stderr while work is under way; nothing where stderr is not a terminal."""
    if err.is_terminal:
        with err.status(message):
            yield
    else:
        yield


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr, moved by `show(done, total, description)`; nothing where stderr is not a terminal."""
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
        InvalidRequestError: An option's value is refused by the wire schema; the message names it.
    """
    try:
        return model(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise InvalidRequestError(reason) from error
        where = str(first["loc"][0])
        raise InvalidRequestError(f"{where} {fields[where]!r} is refused: {reason}", param=where) from error
