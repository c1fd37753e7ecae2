"""The bench of the checks: one model's prompts, directions, magnitudes and scale, measured before anything is judged."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from trait_core.errors import SteeringFailedError
from trait_core.positions import Positions

from trait_service.engine.spec import CaptureSpec, TermSpec
from trait_service.verify.judging import Precision, Scale, distance, spread_of
from trait_service.verify.probe import Answer, Ask, Direction, Engine
from trait_service.verify.reference import NoReferenceError, Reference

TEXTS = (
    "The museum opens at nine, and the first visitors are usually",
    "Here is what I would tell a friend who wants to learn the piano:",
    "When the river rises in spring, the farmers along its banks",
    "Tell me something about bread and why it",
)
LONG_TEXT = "The market opens at seven in the morning, and people walk between the tables. Some of them buy fruit. "
LEAST_DISTINCT = 6
"""Fewer distinct tokens make no prompt: a tokenizer without these words gets random tokens in place of the text."""
FIRST_POSITIONS = 4
"""Positions left out of means: many models park large activations on them."""
ROOM_TO_REPLY = 16
DOSES = (0.3, 0.6, 1.2, 2.4)


class Gap(NamedTuple):
    """How one steered answer compares with the reference, mean |delta logprob| over the engine's own tokens.

    Args:
        difference: Between the engine and the steered reference.
        effect: Between the steered reference and the unsteered one.
        moved: Between the engine and the unsteered reference.
    """

    difference: float
    effect: float
    moved: float


@dataclass(frozen=True)
class Bench:
    """The engine, the reference, and the inputs of the checks.

    Args:
        engine: The engine under test.
        reference: float32 reference; None if there is none.
        no_reference: The reason why there is no reference.
        precision: Limits for the engine's dtype.
        scale: Measured scale, by which differences are small or large for this model.
        quick: Run fewer and smaller checks.
        prompts: Token ids of `TEXTS`.
        slanted: A direction halfway between a random one and the middle layer's mean stream, so that every operation has an
            effect.
        random: A random direction.
        projection: Projection of the middle layer's mean stream on `slanted`.
        norms: `(n_layers,)` mean norm of the residual stream.
        dose: Size of an addition as a share of the layer's residual norm, raised until it moves the model enough.
    """

    engine: Engine
    reference: Reference | None
    no_reference: str
    precision: Precision
    scale: Scale
    quick: bool
    prompts: list[list[int]]
    slanted: Direction
    random: Direction
    projection: float
    norms: np.ndarray
    dose: float = DOSES[0]

    @classmethod
    def measure(
        cls, engine: Engine, reference: Reference | NoReferenceError, precision: Precision, *, quick: bool
    ) -> Self:
        """Measure the model's scale and stream, put two directions into the bank, and choose the dose.

        Raises:
            SteeringFailedError: There is no reference, and the engine captures nothing.
        """
        found, missing = (None, str(reference)) if isinstance(reference, NoReferenceError) else (reference, "")
        prompts = [prompt_of(engine, text, seed) for seed, text in enumerate(TEXTS)]
        scale = _scale_of(engine, found, precision, prompts)
        means, norms = _streams(engine, found, prompts[0])
        random = _unit(np.random.default_rng(0).normal(size=engine.d_model))
        # Half of the stream's own direction: an operation that took away nearly all of it would leave rounding errors.
        mean = means[engine.n_layers // 2]
        slanted = _unit(_unit(mean) + random)
        directions = Direction(slanted), Direction(random)
        engine.upload(directions)
        projection = float(mean @ slanted)
        bench = cls(engine, found, missing, precision, scale, quick, prompts, *directions, projection, norms)
        return bench.with_dose()

    def with_dose(self) -> Self:
        """The bench with the least dose at which the first, a middle and the last layer move the model well, or the largest."""
        for dose in DOSES:
            bench = replace(self, dose=dose)
            if all(self.scale.decides_well(effect) for effect in bench.effects_of_additions()):
                return bench
        return replace(self, dose=DOSES[-1])

    def effects_of_additions(self) -> list[float]:
        """The effect of an addition on each of `ends`: on the reference, or on the engine if there is none; nats."""
        asks = [Ask(self.prompts[0], [self.push(layer)]) for layer in self.ends]
        plain = Ask(self.prompts[0])
        if self.reference is None:
            (unsteered, *steered) = self.engine.run([plain, *asks])
            return [distance(unsteered, answer) for answer in steered]
        (answer,) = self.engine.run([plain])
        tables = [self.table(ask, answer) for ask in (plain, *asks)]
        return [_mean_gap(answer, tables[0], table) for table in tables[1:]]

    @property
    def middle(self) -> int:
        """The middle layer."""
        return self.engine.n_layers // 2

    @property
    def ends(self) -> list[int]:
        """The first, a middle and the last layer."""
        return sorted({0, self.middle, self.engine.n_layers - 1})

    @property
    def directions(self) -> Mapping[str, Direction]:
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

    def push(self, layer: int, times: float = 1.0, **fields: Any) -> TermSpec:
        """An addition of the dose in the random direction."""
        value = times * self.dose * float(self.norms[layer])
        return self.term(value=value, layer=layer, direction=self.random.sha256, **fields)

    def table(self, ask: Ask, answer: Answer) -> torch.Tensor:
        """The reference's `(n_tokens, vocabulary)` logprobs for the engine's own tokens, each given those before it."""
        if self.reference is None:
            raise SteeringFailedError(self.no_reference)
        return self.reference.logprobs(ask.token_ids, answer.token_ids, ask.terms, self.directions)

    def against_reference(self, ask: Ask, answer: Answer) -> Gap:
        """Compare a steered answer with the reference, steered and unsteered."""
        steered, plain = self.table(ask, answer), self.table(replace(ask, terms=[]), answer)
        return Gap(_mean_gap(answer, steered), _mean_gap(answer, plain, steered), _mean_gap(answer, plain))


def prompt_of(engine: Engine, text: str, seed: int) -> list[int]:
    """Token ids of a text, cut to what the model takes; random tokens where the tokenizer cannot write it."""
    most = engine.max_model_len - ROOM_TO_REPLY
    try:
        tokens = engine.encode(text)
    except Exception:  # noqa: BLE001 - a tokenizer that lacks something raises whatever it likes
        tokens = []
    if len(set(tokens)) < LEAST_DISTINCT:
        tokens = np.random.default_rng(seed).integers(engine.n_vocabulary, size=len(text) // 4).tolist()
    return tokens[:most]


def _scale_of(engine: Engine, reference: Reference | None, precision: Precision, prompts: list[list[int]]) -> Scale:
    asks = [Ask(prompt) for prompt in prompts]
    answers = engine.run(asks)
    spread = spread_of(answers)
    if reference is None:
        alone = [engine.run([ask])[0] for ask in asks]
        gaps = [distance(one, other) for one, other in zip(alone, answers, strict=True)]
        noise = max(*gaps, precision.least_noise * spread)
    else:
        noise = statistics.fmean(
            _mean_gap(answer, reference.logprobs(ask.token_ids, answer.token_ids, [], {}))
            for ask, answer in zip(asks, answers, strict=True)
        )
    return Scale(noise=noise, spread=spread, share=precision.share)


def _streams(engine: Engine, reference: Reference | None, prompt: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean stream `(n_layers, d_model)` and mean norm `(n_layers,)` behind the first positions, residual units."""
    if reference is not None:
        streams = reference.streams(prompt).numpy()[:, FIRST_POSITIONS:]
        return streams.mean(1), np.linalg.norm(streams, axis=-1).mean(1)
    capture = CaptureSpec(positions=[Positions.parse(f"all[{FIRST_POSITIONS}:]")])
    (answer,) = engine.run([Ask(prompt, capture=capture, max_tokens=1)])
    if answer.capture is None or not (np.isfinite(answer.capture.norm[0]) & (answer.capture.norm[0] > 0)).all():
        raise SteeringFailedError("the engine captured nothing")
    return answer.capture.mean[0], answer.capture.norm[0]


def _mean_gap(answer: Answer, table: torch.Tensor, other: torch.Tensor | None = None) -> float:
    """Mean |delta logprob| over the answer's tokens and their rivals, between a table and another, or the answer itself."""
    return statistics.fmean(
        abs(float(table[i, token]) - (value if other is None else float(other[i, token])))
        for i, step in enumerate(answer.logprobs)
        for token, value in step.items()
    )


def _unit(vector: np.ndarray) -> np.ndarray:
    unit: np.ndarray = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit
