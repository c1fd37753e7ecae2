"""Random directions: the control for a steering vector at the same dose."""

import numpy as np

from trait_core.schema import LayerEvidence
from trait_core.vectors.file import VectorFile

METHOD = "random"
"""Trait and method of such a vector."""


def random_vector(like: VectorFile, seed: int) -> VectorFile:
    """Seeded random unit directions with another vector's scale.

    Every layer's direction is a normalised standard normal draw from `(seed, layer)`. Separation, centre and residual
    norm are copied, so that a coefficient moves a token as far as with the real vector, in every unit.

    Args:
        like: The trait's vector file.
        seed: The same seed gives the same directions for every vector of the model.
    """
    meta = like.metadata
    directions = {layer: _direction(seed, layer, meta.d_model) for layer in like.directions}
    evidence = {
        layer: LayerEvidence(separation=e.separation, centre=e.centre, residual_norm=e.residual_norm)
        for layer, e in meta.layers.items()
    }
    metadata = meta.model_copy(
        update={
            "trait": METHOD,
            "method": METHOD,
            "method_options": {},
            "layers": evidence,
            "seed": seed,
            "chosen_because": f"the layer of {meta.trait}, whose scale these random directions carry",
            "dataset_digest": None,
            "n_positive": None,
            "n_negative": None,
            "n_held_out": None,
            "created": None,
            "versions": {},
        }
    )
    return VectorFile(metadata, directions)


def _direction(seed: int, layer: int, d_model: int) -> np.ndarray:
    """`(d_model,)` float32, unit length."""
    draw = np.random.default_rng([seed, layer]).standard_normal(d_model)
    return (draw / np.linalg.norm(draw)).astype(np.float32)
