"""`monitor.lens` of a request: its limits on the way in, and the workers' numbers as tokens on the way out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from trait_core.errors import InvalidRequestError
from trait_core.schema import LensGuess, StreamLens

from trait_service.engine.projection_rows import ProjectionRows
from trait_service.engine.spec import LensSpec
from trait_service.engine.stream_lens import early

SPACE = "\u2581"
"""The space in SentencePiece's tokens; its decoder drops the first one of a text."""

TokenText = Callable[[int], str]
"""Text of a token id, with the space before it if it has one."""


def token_text(tokenizer: Any, token: int) -> str:
    """The text of one token, with the space before it if it has one.

    Args:
        tokenizer: As transformers has it.
        token: Token id; "" if the tokenizer has no such token.
    """
    piece = tokenizer.convert_ids_to_tokens(token)
    if piece is None:  # an id without a token, which some tokenizers have
        return ""
    text: str = tokenizer.convert_tokens_to_string([piece])
    return f" {text}" if piece.startswith(SPACE) and not text.startswith(" ") else text


@dataclass(frozen=True)
class LensLimits:
    """Limits of an engine's lens.

    Args:
        n_layers: Decoder blocks of the model.
        first_layer: First layer that can be read; those before it are on other stages of a pipeline.
        refusal: Reason why the lens cannot read this model; None if it can.
        max_readings: Largest number of layers times completions, of one request and of all that run at once.
    """

    n_layers: int
    first_layer: int = 0
    refusal: str | None = None
    max_readings: int = 512

    def check(self, layers: list[int], n: int) -> None:
        """Refuse a lens that the engine could not serve.

        Args:
            layers: Layers that are read.
            n: Completions of the prompt.

        Raises:
            InvalidRequestError: It cannot be read, a layer is out of range or there twice, or there are too many readings.
        """
        if self.refusal is not None:
            raise InvalidRequestError(self.refusal, param="monitor.lens")
        for layer in layers:
            if layer >= self.n_layers:
                raise InvalidRequestError(
                    f"layer {layer} is out of range: the model has layers 0..{self.n_layers - 1}",
                    param="monitor.lens.layers",
                )
            if layer < self.first_layer:
                raise InvalidRequestError(early(layer, self.first_layer), param="monitor.lens.layers")
        if len(set(layers)) < len(layers):
            raise InvalidRequestError(f"layers {layers} name one layer twice", param="monitor.lens.layers")
        if len(layers) * n > self.max_readings:
            raise InvalidRequestError(
                f"the lens would read {len(layers)} layers of {n} completions, {len(layers) * n} in a step; allowed: "
                f"1..{self.max_readings} (--max-lens-readings): ask for fewer layers or completions",
                param="monitor.lens",
            )


def lens_spec(lens: StreamLens) -> LensSpec:
    """A request's lens as it travels to the worker."""
    return LensSpec(layers=lens.layers, top_k=lens.top_k)


@dataclass
class LensRows:
    """Readings of the lens for one prompt's completions, as they arrive.

    Args:
        spec: Its layers and number of tokens.
        text: Text of a token id.
    """

    spec: LensSpec
    text: TokenText
    rows: dict[int, ProjectionRows] = field(default_factory=dict)

    def of(self, completion: int) -> ProjectionRows:
        """The rows of a completion that have arrived: row j is of the position that produced generated token j."""
        width = 2 * len(self.spec.layers) * self.spec.top_k
        return self.rows.setdefault(completion, ProjectionRows(width))

    def add(self, completion: int, rows: np.ndarray, start: int) -> None:
        """Add rows of a completion, the first of which is row `start`; rows that arrived before are skipped."""
        have = self.of(completion)
        if start <= len(have) < start + len(rows):
            have.append(rows[len(have) - start :])

    def guesses(self, rows: np.ndarray) -> list[list[list[LensGuess]]]:
        """The tokens of some rows, layer by layer; `(n, n_layers * 2 * top_k)` float32."""
        shaped = rows.reshape(len(rows), len(self.spec.layers), 2, self.spec.top_k)
        return [
            [
                [
                    LensGuess(id=token, text=self.text(token), logprob=logprob)
                    for token, logprob in zip(ids.astype(np.int64).tolist(), logprobs.tolist(), strict=True)
                    if token >= 0
                ]
                for ids, logprobs in layers
            ]
            for layers in shaped
        ]
