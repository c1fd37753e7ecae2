"""First principal component of the differences between the sides."""

from typing import Any

import numpy as np
import numpy.typing as npt

from trait_extraction.fitting.methods.direction import require_finite, unit_direction

OPTIONS: dict[str, Any] = {"rows": "paired differences", "centred": False, "components": 1}
UNPAIRED_OPTIONS: dict[str, Any] = OPTIONS | {"rows": "all differences of a positive and a negative"}


def pca(
    positive: npt.NDArray[np.float32],
    negative: npt.NDArray[np.float32],
    generator: np.random.Generator,  # noqa: ARG001 - every method has one signature
) -> npt.NDArray[np.float32]:
    """The direction along which the differences are largest: `d = argmax_{|d| = 1} sum_i <h+_i - h-_i, d>^2`.

    It is the first right singular vector of the matrix of differences, with the sign that puts the positives above.
    Representation engineering (Zou et al. 2023, arXiv 2310.01405); llama.cpp's control vectors. The differences are not
    centred: their mean is the trait (`pca_diff` of repeng centres them, and so keeps what varies around it). Where a few
    huge dimensions vary more than the trait does, the method finds those.

    Args:
        positive: `(n, d_model)` float32, residual units.
        negative: `(n, d_model)` float32, residual units; paired by row.
        generator: Not used: the method is deterministic.

    Returns:
        `(d_model,)` float32 unit direction.

    Raises:
        DirectionError: All differences are zero, or one is not finite.
    """
    require_finite(positive, negative)
    return _first_component(positive.astype(np.float64) - negative.astype(np.float64), positive, negative)


def pca_unpaired(
    positive: npt.NDArray[np.float32],
    negative: npt.NDArray[np.float32],
    generator: np.random.Generator,  # noqa: ARG001 - every method has one signature
) -> npt.NDArray[np.float32]:
    """The same over all n m differences: `d = argmax_{|d| = 1} sum_ij <h+_i - h-_j, d>^2`.

    Their second moment is `cov(h+) + cov(h-) + (mean h+ - mean h-)(mean h+ - mean h-)^T`. What the texts of one side vary in
    does not cancel here, as it does between the two sides of a pair: the trait must be the larger variation.

    Args:
        positive: `(n, d_model)` float32, residual units.
        negative: `(m, d_model)` float32, residual units.
        generator: Not used: the method is deterministic.

    Returns:
        `(d_model,)` float32 unit direction.

    Raises:
        DirectionError: All differences are zero, or one is not finite.
    """
    require_finite(positive, negative)
    sides = positive.astype(np.float64), negative.astype(np.float64)
    means = [side.mean(axis=0) for side in sides]
    spread = [(side - mean) / np.sqrt(len(side)) for side, mean in zip(sides, means, strict=True)]
    return _first_component(np.concatenate([*spread, (means[0] - means[1])[None]]), positive, negative)


def _first_component(
    rows: npt.NDArray[np.float64], positive: npt.NDArray[np.float32], negative: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """The direction of the rows' largest second moment, with the positives above."""
    # D^T u for the first eigenvector u of D D^T: scenarios are far fewer than dimensions.
    _, vectors = np.linalg.eigh(rows @ rows.T)
    return unit_direction(rows.T @ vectors[:, -1], positive, negative)
