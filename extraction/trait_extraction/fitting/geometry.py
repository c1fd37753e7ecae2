"""Geometry of directions: their cosines, and the dimensions of the residual stream that dominate its norm."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import numpy.typing as npt

N_MASSIVE = 3
"""Number of dimensions that are reported: in Gemma 3, three hold 88 to 97 per cent of the squared norm."""

UnitDirection = npt.NDArray[np.float32]


def cosine(first: UnitDirection, second: UnitDirection) -> float:
    """Cosine of two unit directions of one layer."""
    return float(first.astype(np.float64) @ second.astype(np.float64))


def cross_layer_cosines(directions: Mapping[int, UnitDirection]) -> tuple[list[int], npt.NDArray[np.float64]]:
    """Cosines between one vector's directions on different layers.

    The residual stream carries a feature from layer to layer, so that a block of high cosines is one direction that is
    kept; layers with a cosine near 0 hold different directions for the same trait.

    Args:
        directions: Layer -> `(d_model,)` float32, unit length.

    Returns:
        `(layers, cosines)`: the layers in order, and `(n_layers, n_layers)` float64.
    """
    layers = sorted(directions)
    stacked = np.stack([directions[layer] for layer in layers]).astype(np.float64)
    return layers, stacked @ stacked.T


def agreement(methods: Mapping[str, Mapping[int, UnitDirection]]) -> dict[tuple[str, str], dict[int, float]]:
    """Cosines of every two methods' directions, layer by layer; a layer that one of them lacks is left out.

    Args:
        methods: Method -> layer -> `(d_model,)` float32, unit length.
    """
    return {
        (first, second): {
            layer: cosine(methods[first][layer], methods[second][layer])
            for layer in sorted(methods[first].keys() & methods[second].keys())
        }
        for first, second in combinations(methods, 2)
    }


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
