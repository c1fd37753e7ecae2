"""Geometry of directions: their cosines, and the dimensions of the residual stream that dominate its norm."""

import numpy as np
import numpy.typing as npt

N_MASSIVE = 3
"""Number of dimensions that are reported: in Gemma 3, three hold 88 to 97 per cent of the squared norm."""

UnitDirection = npt.NDArray[np.float32]


def cosine(first: UnitDirection, second: UnitDirection) -> float:
    """Cosine of two unit directions of one layer."""
    return float(first.astype(np.float64) @ second.astype(np.float64))


def massive_dimensions(activations: npt.NDArray[np.float32]) -> tuple[list[int], float]:
    """The dimensions that hold most of the squared norm (massive activations: Sun et al. 2024, arXiv 2402.17762).

    `share = sum_{j in the largest 3} mean_i h_ij^2 / sum_j mean_i h_ij^2`, over pooled activations: means over positions, in
    which differences between tokens partly cancel.

    Args:
        activations: `(n, d_model)` float32, residual units.

    Returns:
        `(dimensions, share)`, the largest dimension first.
    """
    squares = (activations.astype(np.float64) ** 2).mean(axis=0)
    largest = np.argsort(-squares, kind="stable")[:N_MASSIVE]
    return [int(j) for j in largest], float(squares[largest].sum() / squares.sum())
