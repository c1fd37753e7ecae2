"""What every command shares: where it prints, and how it ends."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

FAILED, USAGE, INTERRUPTED = 1, 2, 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ApiKey = Annotated[str | None, typer.Option(envvar="TRAIT_API_KEY", help="The service's key, if it has one.")]

out, err = Console(), Console(stderr=True)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A spinner where stderr is a terminal, else a line for each step."""
    if not err.is_terminal:
        yield lambda line: err.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    with err.status("asking the service what it serves") as status:
        yield status.update


def print_lines(lines: list[str]) -> None:
    """Lines as they are, on stdout."""
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def print_json(content: Any) -> None:
    """JSON on stdout."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def fail(error: object, code: int) -> int:
    """One line on stderr; returns the exit code."""
    err.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
    return code
