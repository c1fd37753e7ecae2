"""Progress of the work on a prompt set."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PromptSetProgress:
    """Progress of a capture or a projection; everything counted here is stored.

    Attributes:
        total: Prompts in the set.
        done: Complete prompts, those of earlier runs included.
        failed: Prompts that could not be read.
        tokens: Tokens read in this run.
        seconds: Seconds since the run began.
    """

    total: int
    done: int
    failed: int
    tokens: int
    seconds: float


ProgressCallback = Callable[[PromptSetProgress], None]
