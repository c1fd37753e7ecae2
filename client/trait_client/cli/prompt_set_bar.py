"""Progress bar of the commands that process a prompt set."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trait_client.cli.console import progress_bar

if TYPE_CHECKING:  # commands that need no numbers start without them
    from trait_client.prompt_sets import ProgressCallback, PromptSetProgress


@contextlib.contextmanager
def prompt_set_bar() -> Iterator["ProgressCallback"]:
    """Show prompts done, failed, and tokens per second on stderr, if it is a terminal."""
    with progress_bar() as move:

        def show(now: "PromptSetProgress") -> None:
            failed = f", {now.failed} failed" if now.failed else ""
            speed = f", {now.tokens / now.seconds:.0f} tokens/s" if now.tokens else ""
            move(now.done, now.total, f"{now.done} of {now.total} prompts{failed}{speed}")

        yield show
