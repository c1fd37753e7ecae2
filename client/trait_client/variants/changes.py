"""How the residual stream itself changes between two models, which random directions are projected from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trait_client.results.rows import ReadingRow
from trait_client.variants.sides import Side
from trait_core.schema import ActivationInput, ActivationsRequest

Means = npt.NDArray[np.float32]
SINKS = 4
"""First positions of a sequence, which are attention sinks: they are left out of a prompt's means and spans."""

_AT_ONCE = 256


@dataclass(frozen=True)
class Part:
    """The tokens that a mean is taken over.

    Args:
        token_ids: Those that are read.
        start: First position of the mean; it runs to the end.
    """

    token_ids: list[int]
    start: int

    @classmethod
    def prompt(cls, row: ReadingRow) -> "Part | None":
        """The prompt behind the attention sinks; None if it is no longer than they are."""
        return cls(row.token_ids[: row.n_prompt], SINKS) if row.n_prompt > SINKS else None

    @classmethod
    def response(cls, row: ReadingRow) -> "Part | None":
        """The positions that produced the reply's tokens; None if there are none."""
        return cls(row.token_ids[:-1], row.n_prompt - 1) if row.n_response and row.n_prompt > 1 else None


async def mean_streams(side: Side, parts: Mapping[str, Part], layers: Sequence[int]) -> dict[str, Means]:
    """Mean residual stream of each part through one model, `(n_layers_read, d_model)` float32, residual units, by name.

    Raises:
        ServiceError: The service refuses the tokens.
    """
    names = list(parts)
    size = min(_AT_ONCE, side.info.limits.max_activation_inputs)
    found: dict[str, Means] = {}
    for first in range(0, len(names), size):
        chunk = names[first : first + size]
        inputs = [ActivationInput(token_ids=parts[name].token_ids, n_prompt=parts[name].start) for name in chunk]
        request = ActivationsRequest(model=side.adapter, inputs=inputs, layers=list(layers), positions=["response[:]"])
        read = await side.client.activations(request)
        found |= dict(zip(chunk, read.mean("response[:]"), strict=True))
    return found
