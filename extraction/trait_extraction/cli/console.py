"""Output that the commands of `trait-extract` share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trait_core.console import err, out


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A spinner where stderr is a terminal, else a line for each step."""
    if not err.is_terminal:
        yield lambda line: err.print(line, markup=False, soft_wrap=True)
        return
    with err.status("asking the service what it serves") as status:
        yield status.update


def print_lines(lines: list[str]) -> None:
    """Lines as they are, on stdout."""
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)
