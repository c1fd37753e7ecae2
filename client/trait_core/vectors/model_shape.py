"""The model that a vector file is for: identity, shape and residual norms."""

from dataclasses import dataclass
from typing import Self

from trait_core.schema import ServiceInfo, VectorMetadata


@dataclass(frozen=True)
class ModelShape:
    """The model that vectors are for.

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
    def of_service(cls, info: ServiceInfo) -> Self:
        """The model of a running service."""
        norms = dict(enumerate(info.residual_norms))
        where = "the service (GET /v1/steering)"
        return cls(info.model, info.config_digest, info.n_layers, info.d_model, norms, where, info.weights_digest)

    @classmethod
    def of_metadata(cls, meta: VectorMetadata) -> Self:
        """The model of another vector file."""
        norms = {layer: at.residual_norm for layer, at in meta.layers.items()}
        where = f"the {meta.trait} vector file"
        return cls(meta.model, meta.config_digest, meta.n_layers, meta.d_model, norms, where, meta.weights_digest)
