"""Result of one check, as it is printed and published."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

Status = Literal["ok", "failed", "skipped", "measured"]


class Finding(BaseModel):
    """Result of one check.

    Attributes:
        status: `skipped` and `measured` do not fail a verification.
        compared: The two things that were compared; empty if the check did not come to it.
        detail: One line with the numbers.
        difference: Largest difference found: nats (mean |delta logprob|), or relative for `capture` and `monitoring`; None if not compared.
        allowed: Largest difference that was allowed there, in the same unit.
        effect: How far steering moves the model in the same comparison, nats; None if nothing was steered.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    status: Status
    compared: str = ""
    detail: str
    difference: float | None = None
    allowed: float | None = None
    effect: float | None = None


def judged(passed: bool, **fields: object) -> Finding:
    """The finding of a check that passed or failed."""
    return Finding.model_validate({"status": "ok" if passed else "failed", **fields})


def numbers(values: Sequence[float]) -> str:
    """Write numbers with two digits."""
    return ", ".join(f"{value:.2g}" for value in values)


def named(what: str, names: list[str]) -> str:
    """Write a list behind a detail; nothing for an empty one."""
    return f"; {what}: {', '.join(names)}" if names else ""
