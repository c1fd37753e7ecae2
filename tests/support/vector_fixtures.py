"""Vector files that were never extracted: unit directions for the model of a real or a fake service."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from trait_core.schema import LayerEvidence, ServiceInfo, VectorMetadata
from trait_core.vectors.file import VectorFile


def made_vector(
    layers: Iterable[int],
    seed: int | None = None,
    evidence: LayerEvidence | None = None,
    *,
    n_layers: int = 4,
    d_model: int = 8,
    **metadata: Any,
) -> VectorFile:
    """Random directions, or the first axes where there is no `seed`; `metadata` replaces fields."""
    layers = list(layers)
    if seed is None:
        directions = {layer: np.eye(d_model, dtype=np.float32)[layer % d_model] for layer in layers}
    else:
        rng = np.random.default_rng(seed)
        drawn = {layer: rng.standard_normal(d_model).astype(np.float32) for layer in layers}
        directions = {layer: direction / np.linalg.norm(direction) for layer, direction in drawn.items()}
    fields: dict[str, Any] = {
        "trait": "shouting", "method": "mean_diff", "model": "m", "config_digest": "c", "n_layers": n_layers,
        "d_model": d_model, "positions": "response[:]", "chosen_layer": layers[-1], "chosen_because": "a test",
        "layers": dict.fromkeys(layers, evidence or LayerEvidence(separation=2.0, centre=0.5, residual_norm=20.0)),
    }  # fmt: skip
    return VectorFile(VectorMetadata(**fields | metadata), directions)


def random_vector(info: ServiceInfo, seed: int, layer: int = 12, **metadata: Any) -> VectorFile:
    """A unit direction on one layer of the model that a service serves, with a half separation of 5."""
    evidence = LayerEvidence(separation=10.0, centre=0.0, residual_norm=info.residual_norms[layer])
    of_model = info.model_dump(include={"model", "config_digest", "n_layers", "d_model"})
    return made_vector(
        [layer], seed, evidence, **{"trait": "random", "method": "random", "positions": "all[:]"} | of_model | metadata
    )
