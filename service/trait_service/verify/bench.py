"""The bench of the checks: one model's prompts, directions and magnitudes, measured through the engine itself."""

import statistics
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from trait_core.errors import SteeringFailedError
from trait_core.positions import Positions

from trait_service.engine.spec import CaptureSpec, TermSpec
from trait_service.verify.probe import Answer, Ask, Direction, Engine
from trait_service.verify.reference import NoReferenceError, Reference

TEXTS = (
    "The museum opens at nine, and the first visitors are usually",
    "Here is what I would tell a friend who wants to learn the piano:",
    "When the river rises in spring, the farmers along its banks",
    "Tell me something about bread and why it",
)
LONG_TEXT = "The market opens at seven in the morning, and people walk between the tables. Some of them buy fruit. "
LEAST_EFFECT = 0.05


@dataclass(frozen=True)
class Tolerance:
    """Largest differences that count as equal.

    Args:
        logprob: Mean |delta logprob| of the likeliest tokens: against the float32 reference, and in another batch.
        capture: Length of a captured mean's error, relative to the mean's.
        effect: Least |delta logprob| that counts as an effect of steering.
    """

    logprob: float
    capture: float
    effect: float

    @classmethod
    def of(cls, dtype: str, *, quantised: bool = False) -> Self:
        """The tolerance for a dtype of activations, and weights as they were loaded."""
        if dtype == "float32" and not quantised:
            return cls(logprob=5e-4, capture=1e-3, effect=LEAST_EFFECT)
        # Eight (bfloat16) or eleven (float16) bits of precision, rounded anew in every layer; quantised activations too.
        return cls(logprob=0.4, capture=0.1, effect=0.75)


@dataclass
class Bench:
    """The engine, the reference, and the inputs of the checks.

    Args:
        engine: The engine under test.
        reference: float32 reference; None if there is none.
        no_reference: The reason why there is no reference.
        tolerance: Tolerance for the engine's dtype.
        quick: Run fewer and smaller checks.
        prompts: Token ids of `TEXTS`.
        slanted: A direction halfway between a random one and the middle layer's mean stream, so that every operation has an
            effect.
        random: A random direction.
        projection: Projection of the middle layer's mean stream on `slanted`.
        norms: `(n_layers,)` mean norm of the residual stream.
    """

    engine: Engine
    reference: Reference | None
    no_reference: str
    tolerance: Tolerance
    quick: bool
    prompts: list[list[int]]
    slanted: Direction
    random: Direction
    projection: float
    norms: np.ndarray

    @classmethod
    def measure(
        cls, engine: Engine, reference: Reference | NoReferenceError, tolerance: Tolerance, *, quick: bool
    ) -> Self:
        """Measure the stream and put two directions into the bank.

        Raises:
            SteeringFailedError: The engine captures nothing.
        """
        prompts = [engine.encode(text) for text in TEXTS]
        capture = CaptureSpec(positions=[Positions.parse("all[4:]")])
        (answer,) = engine.run([Ask(prompts[0], capture=capture, max_tokens=1)])
        if answer.capture is None:
            raise SteeringFailedError("the engine captured nothing")
        mean = answer.capture.mean[0, engine.n_layers // 2]
        random = _unit(np.random.default_rng(0).normal(size=engine.d_model))
        # Half of the stream's own direction: an operation that took away nearly all of it would leave rounding errors.
        slanted = _unit(_unit(mean) + random)
        directions = Direction(slanted), Direction(random)
        projection = float(mean @ slanted)
        engine.upload(directions)
        found, missing = (None, str(reference)) if isinstance(reference, NoReferenceError) else (reference, "")
        return cls(engine, found, missing, tolerance, quick, prompts, *directions, projection, answer.capture.norm[0])

    @property
    def middle(self) -> int:
        """The middle layer."""
        return self.engine.n_layers // 2

    @property
    def directions(self) -> dict[str, Direction]:
        """Hash -> direction."""
        return {direction.sha256: direction for direction in (self.slanted, self.random)}

    def term(self, operation: str = "add", value: float = 0.0, **fields: Any) -> TermSpec:
        """A term on `slanted`, at the middle layer unless `layer` is given."""
        given = {
            "layer": self.middle,
            "direction": self.slanted.sha256,
            "operation": operation,
            "value": value,
            **fields,
        }
        return TermSpec.model_validate(given)

    def push(self, layer: int, dose: float = 0.6, **fields: Any) -> TermSpec:
        """An addition in the random direction, its size a share of the layer's residual norm."""
        return self.term(value=dose * float(self.norms[layer]), layer=layer, direction=self.random.sha256, **fields)

    def against_reference(self, ask: Ask, answer: Answer) -> float:
        """Mean |delta logprob| over the engine's own tokens, each given those before it, and their likeliest rivals."""
        if self.reference is None:
            raise SteeringFailedError(self.no_reference)
        table = self.reference.logprobs(ask.token_ids, answer.token_ids, ask.terms, self.directions)
        return statistics.fmean(
            abs(value - float(table[i, token]))
            for i, step in enumerate(answer.logprobs)
            for token, value in step.items()
        )


def _unit(vector: np.ndarray) -> np.ndarray:
    unit: np.ndarray = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


def difference(one: Answer, other: Answer) -> float:
    """Mean |delta logprob| of two answers, as far as they chose the same tokens."""
    gaps: list[float] = []
    for a, b, chosen_a, chosen_b in zip(one.logprobs, other.logprobs, one.token_ids, other.token_ids, strict=True):
        gaps += [abs(a[token] - b[token]) for token in a.keys() & b.keys()] or [float("inf")]
        if chosen_a != chosen_b:
            break
    return statistics.fmean(gaps)


def effect(one: Answer, other: Answer) -> float:
    """Largest difference of logprobs of two answers up to their first different token: a lower bound."""
    worst = 0.0
    for a, b, chosen_a, chosen_b in zip(one.logprobs, other.logprobs, one.token_ids, other.token_ids, strict=True):
        least = min(b.values())
        worst = max(worst, *(abs(p - b[token]) if token in b else max(0.0, p - least) for token, p in a.items()))
        if chosen_a != chosen_b:
            break
    return worst
