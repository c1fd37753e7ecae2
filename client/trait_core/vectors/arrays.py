"""Arrays of any tool as directions: converted, checked against a model, scaled to unit length."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trait_core.errors import InvalidRequestError, VectorFileError
from trait_core.vectors.model_shape import ModelShape


@dataclass(frozen=True)
class ScaledDirections:
    """Unit directions and the lengths that their arrays had.

    Args:
        directions: Layer -> `(d_model,)` float32, unit length, layers ascending.
        lengths: Layer -> length of the array.
    """

    directions: dict[int, npt.NDArray[np.float32]]
    lengths: dict[int, float]


def scale(arrays: Mapping[int, Any], shape: ModelShape) -> ScaledDirections:
    """Check arrays against a model and scale them to unit length.

    Args:
        arrays: 0-based decoder block -> `(d_model,)` numbers: anything that numpy takes, or a torch tensor of any float type on any
            device. Dimensions of size 1 are dropped.
        shape: The model.

    Raises:
        VectorFileError: There is none, or an array has another width, is zero or not finite, or its layer is beyond the model.
    """
    if not arrays:
        raise VectorFileError("there are no arrays: give at least one, {layer: array}")
    vectors = {_layer(key, shape): _vector(key, value, shape) for key, value in arrays.items()}
    lengths = {layer: _length(layer, vectors[layer]) for layer in sorted(vectors)}
    directions = {layer: (vectors[layer] / length).astype(np.float32) for layer, length in lengths.items()}
    return ScaledDirections(directions, lengths)


def nearest_to_half(asked: int | None, layers: list[int], shape: ModelShape) -> tuple[int, str]:
    """The layer that requests steer on which name none, and why.

    Raises:
        InvalidRequestError: The asked layer is not among those of the file.
    """
    if asked is None:
        nearest = min(layers, key=lambda layer: (abs(layer - shape.n_layers // 2), layer))
        return nearest, (
            f"Nearest to half of the depth among the imported layers {layers}; nothing is known of their effect."
        )
    if asked not in layers:
        raise InvalidRequestError(f"layer {asked} is not among {layers}", param="chosen_layer")
    return asked, "Chosen at the import."


def residual_norm(layer: int, shape: ModelShape) -> float:
    """The usual norm of the residual stream behind a block.

    Raises:
        InvalidRequestError: It is not known.
    """
    if layer not in shape.residual_norms:
        raise InvalidRequestError(
            f"{shape.source} has no residual norm for layer {layer}, only for {sorted(shape.residual_norms)}",
            param="like",
        )
    return shape.residual_norms[layer]


def readable(array: Any) -> Any:
    """The array as numpy can read it: of a torch tensor, float32 on the CPU, since numpy knows neither bfloat16 nor a GPU."""
    return array.detach().cpu().float() if hasattr(array, "detach") else array


def _layer(key: object, shape: ModelShape) -> int:
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool) and 0 <= key < shape.n_layers:
        return int(key)
    raise VectorFileError(
        f"layer {str(key)[:40]!r}: {shape.model} has layers 0..{shape.n_layers - 1}; a layer is a whole number, the decoder block "
        "whose output the array is for"
    )


def _vector(key: object, value: Any, shape: ModelShape) -> npt.NDArray[np.float64]:
    try:
        given = np.asarray(readable(value))
    except (ValueError, TypeError) as error:
        raise VectorFileError(f"layer {key}: numpy makes no array of a {type(value).__name__}: {error}") from error
    if given.dtype.kind not in "fiu":
        raise VectorFileError(f"layer {key} is {given.dtype}; a direction is an array of real numbers")
    array = given.astype(np.float64).squeeze()
    if array.ndim != 1:
        raise VectorFileError(
            f"layer {key} has the shape {list(given.shape)}; a direction has one dimension, ({shape.d_model},). "
            "An array (n_layers, d_model) is dict(enumerate(array))"
        )
    if array.shape != (shape.d_model,):
        raise VectorFileError(
            f"layer {key} has {array.shape[0]} dimensions, {shape.model} has {shape.d_model}: it belongs to another model"
        )
    return array


def _length(layer: int, vector: npt.NDArray[np.float64]) -> float:
    if not np.isfinite(vector).all():
        raise VectorFileError(f"layer {layer} holds a value that is not finite")
    length = float(np.linalg.norm(vector))
    if length == 0:
        raise VectorFileError(
            f"layer {layer} is zero and has no direction: leave it out, with --layer N for the others"
        )
    return length
