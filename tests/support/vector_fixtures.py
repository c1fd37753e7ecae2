"""Vectors that were never extracted: a random direction, for the model that a service serves."""

from typing import Any

import numpy as np
from trait_core.schema import LayerEvidence, ServiceInfo, VectorMetadata
from trait_core.vectors.file import VectorFile


def random_vector(info: ServiceInfo, seed: int, layer: int = 12, **metadata: Any) -> VectorFile:
    """A unit direction on one layer, with a half separation of 5; `metadata` replaces fields."""
    direction = np.random.default_rng(seed).standard_normal(info.d_model).astype(np.float32)
    evidence = LayerEvidence(separation=10.0, centre=0.0, residual_norm=info.residual_norms[layer])
    fields: dict[str, Any] = {
        "trait": "random", "model": info.model, "config_digest": info.config_digest, "n_layers": info.n_layers,
        "d_model": info.d_model, "method": "random", "positions": "all[:]", "layers": {layer: evidence},
        "chosen_layer": layer, "chosen_because": "a test",
    }  # fmt: skip
    return VectorFile(VectorMetadata(**{**fields, **metadata}), {layer: direction / np.linalg.norm(direction)})
