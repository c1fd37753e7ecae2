"""Which layer a vector steers on when a request names none."""

import math
from collections.abc import Mapping

from trait_client.schema import LayerEvidence

WINDOW = (0.4, 0.6)
"""Parts of the depth between which steering works best: earlier the trait is not formed, later little of it is used."""

AUC_TOLERANCE = 0.02


def choose_layer(evidence: Mapping[int, LayerEvidence]) -> tuple[int, str]:
    """Among the middle layers whose held-out AUC is within 0.02 of the best of them, the largest held-out Cohen's d.

    Discrimination does not tell which layers steer: on written pairs the held-out AUC is 1 on almost every layer,
    late ones included, where adding the direction does little. So depth decides first, and evidence only between
    middle layers. The chosen layer's d is the best of a few, hence a little too high. Where the choice matters, sweep
    the layers.

    Args:
        evidence: Layer -> what is known of its direction; all layers of the model.

    Returns:
        `(layer, why)`; `why` is a sentence. Equal layers: the earlier one.
    """
    window = middle_layers(len(evidence))
    best_auc = max(evidence[layer].auc or 0.0 for layer in window)
    candidates = [layer for layer in window if (evidence[layer].auc or 0.0) >= best_auc - AUC_TOLERANCE]
    chosen = max(candidates, key=lambda layer: (_effect(evidence[layer]), -layer))
    at = evidence[chosen]
    effect = "no spread" if at.cohens_d is None else f"Cohen's d {at.cohens_d:.2f}"
    return chosen, (
        f"Largest held-out Cohen's d of mean_diff ({effect}; AUC {at.auc or 0.0:.2f}) among the {len(candidates)} of "
        f"the middle layers {window[0]}..{window[-1]} whose AUC is within {AUC_TOLERANCE} of the best there "
        f"({best_auc:.2f}); discrimination does not prove that a layer steers."
    )


def middle_layers(n_layers: int) -> list[int]:
    """Layers between 40 % and 60 % of the depth, layer l standing at l / (n_layers - 1); one at least."""
    last = n_layers - 1
    window = list(range(math.ceil(WINDOW[0] * last), math.floor(WINDOW[1] * last) + 1))
    return window or [n_layers // 2]


def _effect(evidence: LayerEvidence) -> float:
    """Cohen's d; without any spread, infinitely large in the direction of the separation."""
    if evidence.cohens_d is not None:
        return evidence.cohens_d
    return math.copysign(math.inf, evidence.separation)
