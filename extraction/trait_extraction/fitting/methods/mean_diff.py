"""Difference of means."""

from typing import Any

import numpy as np
import numpy.typing as npt

from trait_extraction.fitting.methods.direction import unit_direction

OPTIONS: dict[str, Any] = {}


def mean_diff(
    positive: npt.NDArray[np.float32],
    negative: npt.NDArray[np.float32],
    generator: np.random.Generator,  # noqa: ARG001 - every method has one signature
) -> npt.NDArray[np.float32]:
    """Difference of the class means: `d = (mean(h+) - mean(h-)) / |mean(h+) - mean(h-)|`.

    With written pairs this is the mean of the paired differences, contrastive activation addition (Rimsky et al.
    2023, arXiv 2312.06681); the difference in means of Marks and Tegmark 2023 (arXiv 2310.06824) and of the refusal
    direction (Arditi et al. 2024, arXiv 2406.11717).

    Args:
        positive: `(n, d_model)` float32, residual units.
        negative: `(n, d_model)` float32, residual units.
        generator: Not used: the method is deterministic.

    Returns:
        `(d_model,)` float32 unit direction.

    Raises:
        DirectionError: The means are equal, or not finite.
    """
    weight = positive.mean(axis=0, dtype=np.float64) - negative.mean(axis=0, dtype=np.float64)
    return unit_direction(weight, positive, negative)
