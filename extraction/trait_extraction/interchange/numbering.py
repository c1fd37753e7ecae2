"""The decoder block that a file's layer number means. Two conventions are in use, so the user must name one."""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
from trait_core.errors import InvalidRequestError, VectorFileError

from trait_extraction.interchange.foreign_vectors import UNNUMBERED, ForeignVectors, Numbering

NUMBERINGS: dict[Numbering, str] = {
    "block": "number N is the output of decoder block N, counted from 0 (repeng, steering-vectors, trait-interp; "
    "llama.cpp adds direction.N there)",
    "hidden-state": "number N is hidden_states[N] of transformers, the output of block N - 1, and 0 is the embedding "
    "(persona-vectors; llama.cpp's cvector-generator); transformers' last hidden state has been through the final norm, and the "
    "output of the last block has not",
}


def check_numbering(numbering: str | None, foreign: ForeignVectors) -> Numbering:
    """The convention that the caller chose, or that the file's own names state.

    Args:
        numbering: The caller's choice; None where none was made.
        foreign: The file's content. A vector without a number needs no convention.

    Raises:
        InvalidRequestError: No convention was chosen and the names state none, or an unknown one, or one that the names contradict;
            the message explains both.
    """
    stated = foreign.numbering
    match numbering:
        case "block" | "hidden-state":
            if stated is not None and stated != numbering:
                raise InvalidRequestError(
                    f"--numbering {numbering} contradicts the names in the file, which state {stated}: {NUMBERINGS[stated]}. "
                    "Leave --numbering out",
                    param="numbering",
                )
            return numbering
        case None if UNNUMBERED in foreign.vectors:
            return "block"
        case None if stated is not None:
            return stated
    choices = "; ".join(f"--numbering {name}: {meaning}" for name, meaning in NUMBERINGS.items())
    given = "which layer do the file's numbers mean?" if numbering is None else f"unknown numbering {numbering!r}:"
    raise InvalidRequestError(
        f"{given} {choices}. A vector shifted by one layer steers almost as well, so do not guess", param="numbering"
    )


def final_norm_warning(
    foreign: ForeignVectors, numbering: Numbering, n_layers: int, layers: Collection[int]
) -> str | None:
    """A sentence if one of the vectors comes from transformers' last hidden state, else None.

    Args:
        foreign: Vectors as their file numbers them.
        numbering: Meaning of the numbers.
        n_layers: Number of the model's layers.
        layers: Layers that are imported.
    """
    if numbering != "hidden-state" or n_layers not in foreign.vectors or n_layers - 1 not in layers:
        return None
    return (
        f"number {n_layers}, imported as layer {n_layers - 1}: transformers' last hidden state has been through the model's final "
        f"norm, and layer {n_layers - 1} is steered before it. If the file was made with transformers' hidden_states "
        "(persona-vectors), this vector is not a direction of that layer: leave it out, with --layer N for the others"
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
