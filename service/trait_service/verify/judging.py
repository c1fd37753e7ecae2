"""How verify judges: a difference is small or large against how far steering moves this model, never in absolute numbers.

Models differ in the scale of their logits by orders of magnitude, so that no number of nats is small for all of them. Three
quantities are measured on the model itself:

- *noise*: mean |delta logprob| between the engine and the float32 reference, both unsteered. Without a reference: between a
  request in a batch and alone, at least `least_noise` of the spread.
- *spread*: mean distance between the likeliest and the tenth likeliest token, in nats.
- *effect*: mean |delta logprob| by which steering moves the reference (without one: the engine).

The allowed difference is 4 x noise + share x effect; share is 0.2 % in float32 and 5 % in 16 bits or with quantised weights.
A comparison decides if the allowed difference is at most half the effect, and the effect at least 2 % of the spread. A hook
that does nothing is wrong by the whole effect, twice what is allowed or more. Doses are raised until comparisons decide.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from trait_service.verify.probe import Answer

NOISE_FACTOR = 4
DECISIVE = 0.5
"""Largest allowed difference with which a comparison decides, as a share of the effect."""
LEAST_EFFECT = 0.02
"""Least effect with which a comparison decides, as a share of the spread."""


@dataclass(frozen=True)
class Precision:
    """Limits for the dtype of the activations, all of them relative.

    Args:
        share: Allowed difference as a share of the effect, besides the noise.
        noise: Largest noise of a sound engine, as a share of the spread.
        least_noise: Noise that is assumed without a reference, as a share of the spread.
        capture: Largest length of a captured mean's error, relative to the mean's.
    """

    share: float
    noise: float
    least_noise: float
    capture: float


EXACT = Precision(share=0.002, noise=0.005, least_noise=1e-5, capture=1e-3)
ROUNDED = Precision(share=0.05, noise=0.1, least_noise=0.01, capture=0.1)
"""Eight (bfloat16) or eleven (float16) bits of precision, rounded anew in every layer; quantised activations too."""


def precision_of(dtype: str, *, quantised: bool) -> Precision:
    """The limits for a dtype of activations, and weights as they were loaded."""
    return EXACT if dtype == "float32" and not quantised else ROUNDED


@dataclass(frozen=True)
class Scale:
    """The measured scale of one model on one engine; all in nats.

    Args:
        noise: See the module's text.
        spread: See the module's text.
        share: Allowed difference as a share of the effect, besides the noise.
    """

    noise: float
    spread: float
    share: float

    def allowed(self, effect: float) -> float:
        """Largest difference that counts as equal, where steering moves the model by `effect`."""
        return NOISE_FACTOR * self.noise + self.share * effect

    def decides(self, effect: float) -> bool:
        """True if a comparison with this effect would show a hook that does nothing."""
        return self.allowed(effect) <= DECISIVE * effect and effect >= LEAST_EFFECT * self.spread

    def decides_well(self, effect: float) -> bool:
        """True if even half the effect would decide."""
        return self.decides(effect / 2)


def spread_of(answers: list[Answer]) -> float:
    """Mean distance between the likeliest and the least likely of the returned tokens, in nats."""
    return statistics.fmean(max(step.values()) - min(step.values()) for answer in answers for step in answer.logprobs)


def distance(one: Answer, other: Answer) -> float:
    """Mean |delta logprob| of two answers up to their first different token: a lower bound."""
    return statistics.fmean(_gaps(one, other))


def _gaps(one: Answer, other: Answer) -> Iterator[float]:
    for a, b, chosen_a, chosen_b in zip(one.logprobs, other.logprobs, one.token_ids, other.token_ids, strict=True):
        least_a, least_b = min(a.values()), min(b.values())
        for token in a.keys() | b.keys():
            if token in a and token in b:
                yield abs(a[token] - b[token])
            else:  # a token that is not returned is less likely than all that are
                yield max(0.0, a[token] - least_b if token in a else b[token] - least_a)
        if chosen_a != chosen_b:
            break
