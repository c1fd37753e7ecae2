"""The end of a long command: its interruption, its outcome on stdout, its errors on stderr."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from trait_core.console import EXIT_INTERRUPTED, complain, fail, out, plain

if TYPE_CHECKING:  # DuckDB takes a while to import
    from trait_client.results.runs import Outcome


@contextlib.contextmanager
def resumable(kept: str) -> Iterator[None]:
    """Turn Ctrl-C into exit code 130 and a line that says what is kept and how to continue.

    Args:
        kept: Place of the stored data, for example "finished shards are in captured".
    """
    try:
        yield
    except KeyboardInterrupt:
        fail(f"interrupted: {kept}; run the same command to continue", EXIT_INTERRUPTED)


def print_outcome(outcome: "Outcome", *lines: str, label: str = "") -> None:
    """Print the status, the counts and further lines on stdout."""
    out.print(plain("\n".join([label + outcome.line, *lines])), soft_wrap=True)


def print_errors(outcome: "Outcome", label: str = "") -> None:
    """Print each distinct error with its count on stderr."""
    for message, count in outcome.errors:
        complain(f"{label}{count} x {message}")


def print_left_out(reasons: Sequence[str]) -> None:
    """Print each file of a folder that could not be read, with its reason, on stderr."""
    for reason in reasons:
        complain(f"left out: {reason}")
