"""Random direction: the control."""

from typing import Any

import numpy as np
import numpy.typing as npt

from trait_extraction.fitting.methods.direction import unit_direction

OPTIONS: dict[str, Any] = {"distribution": "uniform on the sphere"}


def random(
    positive: npt.NDArray[np.float32],
    negative: npt.NDArray[np.float32],
    generator: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """A direction that is independent of the trait: `d = x / |x|`, `x ~ N(0, I)`, the sign taken from the data.

    The effect of a trait's direction is what it does beyond directions like this one. The sign makes the separation
    positive, as with every method; the activations decide nothing else.

    Args:
        positive: `(n, d_model)` float32, residual units.
        negative: `(n, d_model)` float32, residual units.
        generator: The pipeline seeds it with (seed, layer), so that layers differ.

    Returns:
        `(d_model,)` float32 unit direction.

    Raises:
        DirectionError: The activations are not finite.
    """
    weight: npt.NDArray[np.float64] = generator.standard_normal(size=(positive.shape[1],))
    return unit_direction(weight, positive, negative)
