"""Where the work on a prompt set stands."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PromptSetProgress:
    """Where a capture or a projection stands; everything counted here is stored.

    Attributes:
        total: Prompts of the set.
        done: Prompts that are complete, those of earlier runs included.
        failed: Prompts that could not be read.
        tokens: Read in this run.
        seconds: Since the run began.
    """

    total: int
    done: int
    failed: int
    tokens: int
    seconds: float


ProgressCallback = Callable[[PromptSetProgress], None]
