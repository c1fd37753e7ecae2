"""Turns another tool's vectors into a vector file."""

from dataclasses import dataclass

from trait_core.errors import VectorFileError
from trait_core.schema import RESID_POST, HookPoint
from trait_core.vectors.file import VectorFile
from trait_core.vectors.model_shape import ModelShape

from trait_extraction.interchange.foreign_vectors import ForeignVectors, Numbering
from trait_extraction.interchange.numbering import by_layer, final_norm_warning


@dataclass(frozen=True)
class Imported:
    """A vector file made from another tool's vectors.

    Args:
        vector: The file's content.
        norms: Layer -> length of the vector as the other tool's file has it.
        left_out: One sentence for each vector that was not imported.
        warnings: One sentence for each vector that may not mean what its layer suggests.
    """

    vector: VectorFile
    norms: dict[int, float]
    left_out: list[str]
    warnings: list[str]


def import_vectors(
    foreign: ForeignVectors,
    shape: ModelShape,
    trait: str,
    numbering: Numbering,
    *,
    method: str = "imported",
    layers: list[int] | None = None,
    chosen_layer: int | None = None,
    positions: str = "unknown",
    at: HookPoint = RESID_POST,
) -> Imported:
    """Check another tool's vectors against a model, and make a vector file from them (`VectorFile.from_arrays`).

    Args:
        foreign: Content of the other tool's file.
        shape: The model.
        trait: Name of the new vector.
        numbering: Meaning of the file's layer numbers.
        method: How the vectors were made.
        layers: 0-based blocks to take; None takes all.
        chosen_layer: Layer for requests that name none; None takes the one nearest to half of the depth.
        positions: The positions that they were read from, as a vector file names them.
        at: The place in a block that they are for.

    Raises:
        InvalidRequestError: An invalid name, or a layer that the file does not have.
        VectorFileError: A vector has another width, is zero or not finite, or its layer is beyond the model.
    """
    vectors, left_out = by_layer(foreign, numbering, shape.n_layers, layers)
    if not vectors:
        raise VectorFileError("no vector remains for any layer")
    warning = final_norm_warning(foreign, numbering, shape.n_layers, vectors)
    options = {
        "imported_from": foreign.kind,
        "numbering": numbering,
        "facts": foreign.facts,
        **({"after_final_norm": [shape.n_layers - 1]} if warning else {}),
    }
    vector = VectorFile.from_arrays(
        trait, vectors, shape, method=method, chosen_layer=chosen_layer, method_options=options, at=at
    )
    if positions != "unknown":
        vector = VectorFile(vector.metadata.model_copy(update={"positions": positions}), vector.directions)
    norms = {layer: at.separation for layer, at in vector.metadata.layers.items()}
    return Imported(vector, norms, left_out, [warning] if warning else [])
