"""Resolvers over a registry of small vectors: six layers of width 8 and residual norm 50."""

from typing import Any, get_args

from trait_core.schema import Operation
from trait_service.registry.registry import VectorRegistry
from trait_service.resolving.resolve import Resolver

N_LAYERS, D_MODEL, RESIDUAL_NORM = 6, 8, 50.0


def resolver_of(registry: VectorRegistry, **options: Any) -> Resolver:
    """A resolver that has every operation, four terms a layer and a limit of 2."""
    defaults = {
        "n_layers": N_LAYERS,
        "d_model": D_MODEL,
        "residual_norms": [RESIDUAL_NORM] * N_LAYERS,
        "operations": get_args(Operation),
        "terms_per_layer": 4,
        "max_relative_dose": 2.0,
    }
    return Resolver(registry.get, **defaults | options)
