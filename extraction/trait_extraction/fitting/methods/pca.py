"""First principal component of the paired differences."""

from typing import Any

import numpy as np
import numpy.typing as npt

from trait_extraction.fitting.methods.direction import require_finite, unit_direction

OPTIONS: dict[str, Any] = {"rows": "paired differences", "centred": False, "components": 1}


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

    Without pairs (unequal numbers) the second moment is that of all n m differences,
    `cov(h+) + cov(h-) + (mean h+ - mean h-)(...)^T`.

    Args:
        positive: `(n, d_model)` float32, residual units.
        negative: `(m, d_model)` float32, residual units; with n = m paired by row.
        generator: Not used: the method is deterministic.

    Returns:
        `(d_model,)` float32 unit direction.

    Raises:
        DirectionError: All differences are zero, or one is not finite.
    """
    require_finite(positive, negative)
    first, second = positive.astype(np.float64), negative.astype(np.float64)
    if len(first) == len(second):
        rows = first - second
    else:
        means = first.mean(axis=0), second.mean(axis=0)
        rows = np.concatenate(
            [
                (first - means[0]) / np.sqrt(len(first)),
                (second - means[1]) / np.sqrt(len(second)),
                (means[0] - means[1])[None],
            ]
        )
    # D^T u for the first eigenvector u of D D^T: scenarios are far fewer than dimensions.
    _, vectors = np.linalg.eigh(rows @ rows.T)
    return unit_direction(rows.T @ vectors[:, -1], positive, negative)
