"""Largest differences that count as equal on the models that the stages bring, whose logits have the usual scale."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Tolerance:
    """Largest differences that count as equal.

    Args:
        logprob: Mean |delta logprob| of the likeliest tokens: against another run, and in another batch.
        capture: Length of a captured mean's error, relative to the mean's.
        effect: Least |delta logprob| that counts as an effect of steering.
    """

    logprob: float
    capture: float
    effect: float

    @classmethod
    def of(cls, dtype: str) -> Self:
        """The tolerance for a dtype of activations."""
        if dtype == "float32":
            return cls(logprob=5e-4, capture=1e-3, effect=0.05)
        # Eight (bfloat16) or eleven (float16) bits of precision, rounded anew in every layer.
        return cls(logprob=0.4, capture=0.1, effect=0.75)
