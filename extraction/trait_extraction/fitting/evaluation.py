"""The evidence for fitted directions: discrimination, intervals over splits, and geometry."""

import numpy as np
import numpy.typing as npt
from trait_core.schema import LayerEvidence

from trait_extraction.data.split import Split
from trait_extraction.fitting.directions import LAYER_METHOD, Directions, Fitted
from trait_extraction.fitting.evidence import layer_evidence
from trait_extraction.fitting.geometry import cosine, massive_dimensions
from trait_extraction.fitting.intervals import HeldOut, HeldOutIntervals, held_out_intervals
from trait_extraction.plan import Plan
from trait_extraction.reading.activations import ContrastiveActivations

Evidence = dict[int, LayerEvidence]
"""Layer -> evidence for its direction."""


def evaluate(plan: Plan, activations: ContrastiveActivations, fitted: Fitted) -> dict[str, Evidence]:
    """Evidence for the wanted methods' directions, and for those of the method that chooses the layer.

    Returns:
        Method -> layer -> evidence, with intervals and geometry; for a method that is not wanted, without them.
    """
    evidence = {
        method: measure(fitted.first[method], activations, plan.splits[0]) for method in {LAYER_METHOD, *fitted.wanted}
    }
    massive = {
        layer: massive_dimensions(np.concatenate([activations.positive[:, layer], activations.negative[:, layer]]))
        for layer in evidence[LAYER_METHOD]
    }
    for method in fitted.wanted:
        own = fitted.first[method]
        for layer, found in _intervals(plan, activations, [own, *fitted.further[method]]).items():
            dimensions, share = massive[layer]
            others = {name: cosine(own[layer], other[layer]) for name, other in fitted.first.items() if name != method}
            evidence[method][layer] = evidence[method][layer].model_copy(
                update={
                    "accuracy_interval": found.accuracy,
                    "auc_interval": found.auc,
                    "cohens_d_interval": found.cohens_d,
                    "cosine_methods": others,
                    "cosine_previous_layer": cosine(own[layer], own[layer - 1]) if layer - 1 in own else None,
                    "massive_dimensions": dimensions,
                    "massive_share": share,
                    "massive_share_of_direction": float((own[layer][dimensions].astype(np.float64) ** 2).sum()),
                }
            )
    return evidence


def measure(directions: Directions, activations: ContrastiveActivations, split: Split) -> Evidence:
    """Evidence for each layer's direction by itself."""
    return {
        layer: layer_evidence(
            direction,
            activations.positive[:, layer],
            activations.negative[:, layer],
            split,
            float(activations.residual_norms[layer]),
            paired=activations.paired,
        )
        for layer, direction in directions.items()
    }


def _intervals(
    plan: Plan, activations: ContrastiveActivations, directions: list[Directions]
) -> dict[int, HeldOutIntervals]:
    """Layer -> intervals of the held-out evidence; `directions[i]` were fitted on split i."""
    return {
        layer: held_out_intervals(
            [
                _held_out(one[layer], activations, layer, split)
                for one, split in zip(directions, plan.splits, strict=True)
            ],
            np.random.default_rng([plan.splits[0].seed, layer]),
        )
        for layer in directions[0]
    }


def _held_out(
    direction: npt.NDArray[np.float32], activations: ContrastiveActivations, layer: int, split: Split
) -> HeldOut:
    wide = direction.astype(np.float64)
    positive = activations.positive[:, layer].astype(np.float64) @ wide
    negative = activations.negative[:, layer].astype(np.float64) @ wide
    centre = float(positive[split.train.positive].mean() + negative[split.train.negative].mean()) / 2
    held = split.held_out
    return HeldOut(positive[held.positive], negative[held.negative], centre, paired=activations.paired)
