"""The parts that all command lines share: consoles, options, JSON output, exit codes.

The only module of this package that imports typer and rich.
"""

import json
import sys
from typing import Annotated, Any, NoReturn

import typer  # noqa: TID251
from rich.console import Console  # noqa: TID251
from rich.text import Text  # noqa: TID251

from trait_core.errors import InvalidRequestError, TraitError, UnknownVectorError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_INTERRUPTED = 130

UNBOUNDED_WIDTH = 10_000
"""Column width when stdout is not a terminal."""

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
    """Text without markup, its control characters made visible: a model's reply cannot move the terminal's cursor."""
    return Text("".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text))


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
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def run(app: typer.Typer) -> None:
    """Run a command line. An expected error becomes one line on stderr and an exit code."""
    try:
        app()
    except UnknownVectorError as error:
        complain(error)
        sys.exit(EXIT_FAILED)
    except InvalidRequestError as error:
        complain(error)
        sys.exit(EXIT_USAGE)
    except (TraitError, OSError) as error:
        complain(error)
        sys.exit(EXIT_FAILED)
