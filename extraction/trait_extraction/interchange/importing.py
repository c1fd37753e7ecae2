"""Turns another tool's vectors into a vector file."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from trait_core.errors import InvalidRequestError, VectorFileError
from trait_core.schema import LayerEvidence, ServiceInfo, VectorMetadata, is_name
from trait_core.vectors.file import VectorFile

from trait_extraction.interchange.foreign_vectors import ForeignVectors
from trait_extraction.interchange.numbering import Numbering, by_layer


@dataclass(frozen=True)
class ModelShape:
    """The model that the vectors are for.

    Args:
        model: Its name.
        config_digest: Digest of its configuration; a service takes vectors of its own model only.
        n_layers: Decoder blocks.
        d_model: Width of the residual stream.
        residual_norms: Layer -> mean token norm over positions 4 and later.
        source: Origin of these values, for messages.
        weights_digest: Digest of its weights, if known.
    """

    model: str
    config_digest: str
    n_layers: int
    d_model: int
    residual_norms: dict[int, float]
    source: str
    weights_digest: str | None = None

    @classmethod
    def of_service(cls, info: ServiceInfo) -> "ModelShape":
        """The model of a running service."""
        norms = dict(enumerate(info.residual_norms))
        where = "the service (GET /v1/steering)"
        return cls(info.model, info.config_digest, info.n_layers, info.d_model, norms, where, info.weights_digest)

    @classmethod
    def of_file(cls, vector: VectorFile) -> "ModelShape":
        """The model of another vector file."""
        meta = vector.metadata
        norms = {layer: at.residual_norm for layer, at in meta.layers.items()}
        where = f"the {meta.trait} vector file"
        return cls(meta.model, meta.config_digest, meta.n_layers, meta.d_model, norms, where, meta.weights_digest)


@dataclass(frozen=True)
class Imported:
    """A vector file made from another tool's vectors.

    Args:
        vector: The file's content.
        norms: Layer -> length of the vector as the other tool's file has it.
        left_out: One sentence for each vector that was not imported.
    """

    vector: VectorFile
    norms: dict[int, float]
    left_out: list[str]


def import_vectors(
    foreign: ForeignVectors,
    shape: ModelShape,
    trait: str,
    numbering: Numbering,
    *,
    method: str = "imported",
    layers: list[int] | None = None,
    chosen_layer: int | None = None,
) -> Imported:
    """Check another tool's vectors against a model, and make a vector file from them.

    Directions are scaled to unit length. `separation` becomes the length that the vector had, so that one unit of it adds
    the vector as its own tool adds it; the separation of the classes is unknown, and so is the centre, which becomes 0.

    Args:
        foreign: Content of the other tool's file.
        shape: The model.
        trait: Name of the new vector.
        numbering: Meaning of the file's layer numbers.
        method: How the vectors were made.
        layers: 0-based blocks to take; None takes all.
        chosen_layer: Layer for requests that name none; None takes the one nearest to half of the depth.

    Raises:
        InvalidRequestError: An invalid name, or a layer that the file does not have.
        VectorFileError: A vector has another width, is zero or not finite, or its layer is beyond the model.
    """
    for name in (trait, method):
        if not is_name(name):
            raise InvalidRequestError(
                f"{name[:80]!r} is not a valid name: lower case letters, digits, _ . and -, 64 at most"
            )
    vectors, left_out = by_layer(foreign, numbering, shape.n_layers, layers)
    if not vectors:
        raise VectorFileError("no vector remains for any layer")
    norms = {layer: _length(layer, vector, shape) for layer, vector in vectors.items()}
    directions = {
        layer: (vectors[layer].astype(np.float64) / norms[layer]).astype(np.float32) for layer in sorted(vectors)
    }
    chosen = _chosen(chosen_layer, sorted(vectors), shape)
    metadata = _metadata(shape, norms, chosen, trait=trait, method=method, options=_options(foreign, numbering))
    return Imported(VectorFile(metadata, directions), norms, left_out)


def _chosen(asked: int | None, layers: list[int], shape: ModelShape) -> tuple[int, str]:
    """The layer that requests steer on which name none, and why."""
    if asked is None:
        nearest = min(layers, key=lambda layer: (abs(layer - shape.n_layers // 2), layer))
        return nearest, (
            f"Nearest to half of the depth among the imported layers {layers}; nothing is known of their effect."
        )
    if asked not in layers:
        raise InvalidRequestError(f"layer {asked} is not among {layers}", param="chosen_layer")
    return asked, "Chosen at the import."


def _options(foreign: ForeignVectors, numbering: Numbering) -> dict[str, Any]:
    return {
        "imported_from": foreign.kind,
        "numbering": numbering,
        "separation_is": "the vector's length in its own file",
        "centre_is": "unknown",
        "facts": foreign.facts,
    }


def _metadata(
    shape: ModelShape,
    norms: dict[int, float],
    chosen: tuple[int, str],
    *,
    trait: str,
    method: str,
    options: dict[str, Any],
) -> VectorMetadata:
    """Metadata of a vector file whose evidence is the vectors' lengths alone."""
    return VectorMetadata(
        trait=trait,
        model=shape.model,
        config_digest=shape.config_digest,
        weights_digest=shape.weights_digest,
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        method=method,
        method_options=options,
        positions="unknown",
        layers={
            layer: LayerEvidence(separation=norm, centre=0.0, residual_norm=_norm_of(layer, shape))
            for layer, norm in norms.items()
        },
        chosen_layer=chosen[0],
        chosen_because=chosen[1],
    )


def _length(layer: int, vector: npt.NDArray[np.float32], shape: ModelShape) -> float:
    if vector.shape != (shape.d_model,):
        raise VectorFileError(
            f"layer {layer} has {vector.shape[0]} dimensions, {shape.model} has {shape.d_model}: it belongs to another model"
        )
    if not np.isfinite(vector).all():
        raise VectorFileError(f"layer {layer} holds a value that is not finite")
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if norm == 0:
        raise VectorFileError(
            f"layer {layer} is zero and has no direction: leave it out, with --layer N for the others"
        )
    return norm


def _norm_of(layer: int, shape: ModelShape) -> float:
    if layer not in shape.residual_norms:
        raise InvalidRequestError(
            f"{shape.source} has no residual norm for layer {layer}, only for {sorted(shape.residual_norms)}",
            param="like",
        )
    return shape.residual_norms[layer]
