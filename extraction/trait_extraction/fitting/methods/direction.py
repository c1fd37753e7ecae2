"""Turns a method's weight into a unit direction."""

import numpy as np
import numpy.typing as npt
from trait_core.errors import TraitError


class DirectionError(TraitError):
    """The activations do not define a direction."""


_NOT_FINITE = (
    "the direction is not finite: look for infinite or NaN activations (half precision overflows in the first "
    "positions of some models; serve the model in bfloat16 or float32)"
)


def require_finite(*sides: npt.NDArray[np.float32]) -> None:
    """Refuse activations on which a decomposition or an optimisation would fail with an error of its own.

    Raises:
        DirectionError: A value is not finite.
    """
    if not all(np.isfinite(side).all() for side in sides):
        raise DirectionError(_NOT_FINITE)


def unit_direction(
    weight: npt.NDArray[np.floating],
    positive: npt.NDArray[np.float32],
    negative: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """`weight / |weight|`, with the sign on which the positives' mean projects higher.

    Args:
        weight: `(d_model,)`, any scale.
        positive: `(n, d_model)` float32, residual units.
        negative: `(m, d_model)` float32, residual units.

    Returns:
        `(d_model,)` float32, unit length.

    Raises:
        DirectionError: The weight is zero or not finite: the classes do not differ, or an activation is not finite.
    """
    wide = weight.astype(np.float64)
    norm = float(np.linalg.norm(wide))
    gap = wide @ (positive.mean(axis=0, dtype=np.float64) - negative.mean(axis=0, dtype=np.float64))
    if not (np.isfinite(norm) and np.isfinite(gap)):
        raise DirectionError(_NOT_FINITE)
    if norm == 0:
        raise DirectionError(
            "the direction is zero: the positive and the negative activations do not differ. Do the two sides differ "
            "at the positions that are read?"
        )
    return (wide / (norm if gap >= 0 else -norm)).astype(np.float32)
