"""The decoder block that a file's layer number means. Two conventions are in use, so the user must name one."""

from typing import Literal

import numpy as np
import numpy.typing as npt
from trait_core.errors import InvalidRequestError, VectorFileError

from trait_extraction.interchange.foreign_vectors import UNNUMBERED, ForeignVectors

Numbering = Literal["block", "hidden-state"]

NUMBERINGS: dict[str, str] = {
    "block": "number N is the output of decoder block N, counted from 0 (repeng, steering-vectors, trait-interp; "
    "llama.cpp adds direction.N there)",
    "hidden-state": "number N is hidden_states[N] of transformers, the output of block N - 1, and 0 is the embedding "
    "(persona-vectors; llama.cpp's cvector-generator)",
}


def check_numbering(numbering: str | None) -> Numbering:
    """The convention that the caller chose.

    Raises:
        InvalidRequestError: No convention was chosen, or an unknown one; the message explains both.
    """
    match numbering:
        case "block" | "hidden-state":
            return numbering
    choices = "; ".join(f"--numbering {name}: {meaning}" for name, meaning in NUMBERINGS.items())
    given = "which layer do the file's numbers mean?" if numbering is None else f"unknown numbering {numbering!r}:"
    raise InvalidRequestError(
        f"{given} {choices}. A vector shifted by one layer steers almost as well, so do not guess", param="numbering"
    )


def by_layer(
    foreign: ForeignVectors, numbering: Numbering, n_layers: int, wanted: list[int] | None
) -> tuple[dict[int, npt.NDArray[np.float32]], list[str]]:
    """Vectors by 0-based decoder block, `(d,)` float32 each.

    Args:
        foreign: Vectors as their file numbers them.
        numbering: Meaning of the numbers.
        n_layers: Number of the model's layers.
        wanted: Layers to keep; None keeps all. A vector without a number is assigned to the one layer that is named.

    Returns:
        `(layer -> vector, unchanged; a sentence for each vector that was left out)`.

    Raises:
        InvalidRequestError: A wanted layer does not exist, or no layer is named for a vector without a number.
        VectorFileError: A number is beyond the model.
    """
    if UNNUMBERED in foreign.vectors:
        if wanted is None or len(wanted) != 1:
            raise InvalidRequestError("the file holds one vector without a layer: name its layer, --layer N", "layer")
        return {_in_range(wanted[0], wanted[0], n_layers): foreign.vectors[UNNUMBERED]}, []
    shift = 1 if numbering == "hidden-state" else 0
    left_out = []
    layers = {}
    for number, vector in sorted(foreign.vectors.items()):
        if number < shift:
            left_out.append(f"number {number} is the embedding, which is not the output of a layer: left out")
            continue
        layers[_in_range(number - shift, number, n_layers)] = vector
    if wanted is None:
        return layers, left_out
    if missing := sorted(set(wanted) - set(layers)):
        raise InvalidRequestError(f"no vector for layer {missing[0]}: the file has layers {sorted(layers)}", "layer")
    return {layer: layers[layer] for layer in sorted(set(wanted))}, left_out


def _in_range(layer: int, number: int, n_layers: int) -> int:
    if not 0 <= layer < n_layers:
        raise VectorFileError(
            f"number {number} means layer {layer}, and the model has layers 0..{n_layers - 1}: is it another model, or "
            "the other numbering?"
        )
    return layer
