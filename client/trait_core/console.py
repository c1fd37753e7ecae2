"""The parts that all command lines share: consoles, options, tables, JSON output, exit codes.

Of this package, only this module and `tables` import typer or rich.
"""

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

import typer  # noqa: TID251
from rich.console import Console  # noqa: TID251
from rich.text import Text  # noqa: TID251

from trait_core.errors import InvalidRequestError, TraitError, UnknownVectorError
from trait_core.os_errors import sentence_of
from trait_core.tables import Cell, Table, visible, write_fields, write_table

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_INTERRUPTED = 130

API_KEY_VARIABLE = "TRAIT_API_KEY"

ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar=API_KEY_VARIABLE,
        show_default=False,
        help="API key of the service, if it needs one.",
        rich_help_panel="Service",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def plain(text: str) -> Text:
    """Text without markup, its control characters made visible."""
    return visible(text)


def print_table(table: Table) -> None:
    """Print a table on stdout: whole words on a terminal of any width, rows of full values in a pipe."""
    write_table(out, table)


def print_fields(fields: Mapping[str, Cell], styles: Mapping[str, str] | None = None) -> None:
    """Print a label and a value on each line of stdout; `styles` maps labels to the styles of their lines."""
    write_fields(out, fields, styles)


def complain(error: Exception | str, *, label: str = "error") -> None:
    """Print one line on stderr."""
    line = " ".join(str(error).split())
    err.print(Text.assemble((f"{label}: ", "bold red"), plain(line)), soft_wrap=True)


def fail(error: Exception | str, code: int = EXIT_FAILED, *, label: str = "error") -> NoReturn:
    """Print one line on stderr and leave the command with an exit code."""
    complain(error, label=label)
    raise typer.Exit(code)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout.

    Raises:
        ValueError: The document holds NaN or an infinity, which JSON cannot express.
    """
    readable = (sys.stdout.encoding or "utf-8").lower().replace("-", "").startswith("utf")
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=not readable, allow_nan=False) + "\n")


def run(app: typer.Typer, *, label: str = "error") -> None:
    """Run a command line. An expected error becomes one line on stderr and an exit code.

    Args:
        app: The command line.
        label: The first word of that line.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character that the terminal or file cannot hold is written as an escape
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except UnknownVectorError as error:
        complain(error, label=label)
        sys.exit(EXIT_FAILED)
    except InvalidRequestError as error:
        complain(error, label=label)
        sys.exit(EXIT_USAGE)
    except OSError as error:
        complain(sentence_of(error), label=label)
        sys.exit(EXIT_FAILED)
    except TraitError as error:
        complain(error, label=label)
        sys.exit(EXIT_FAILED)
