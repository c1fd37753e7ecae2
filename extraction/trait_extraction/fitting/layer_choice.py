"""The layer that a vector steers on when a request names none: from steering results if there are any, else from evidence."""

import math
from collections.abc import Mapping

from trait_client.results import ResultStore
from trait_core.schema import LayerEvidence, ServiceInfo, VectorMetadata

LayerChoice = tuple[int, str]
"""`(layer, reason)`; the reason is sentences that say whether steering or evidence chose it."""

BY_STEERING, BY_EVIDENCE = "By steering", "By evidence"

_BEST = """
SELECT b.*, s.n_layers FROM best_coherent b
JOIN (SELECT trait, model, precision, adapter, count(DISTINCT layer) AS n_layers FROM cell_summary GROUP BY ALL) s
USING (trait, model, precision, adapter)
WHERE effect"""

WINDOW = (0.4, 0.6)
"""Range of the depth in which steering works best: earlier the trait is not formed yet, later little of it is used."""

AUC_TOLERANCE = 0.02

EFFECT_TOLERANCE = 0.1
"""Part of Cohen's d that counts as noise: with 13 held-out pairs and a d of 6, its standard error is 15 %."""


def steered_layer(results: ResultStore, trait: str, info: ServiceInfo) -> LayerChoice | None:
    """The layer of the trait's best coherent setting in a result database (view `best_coherent`).

    Only a setting that is an effect counts: beyond every random direction of its dose, with an interval that excludes 0.
    Among precisions and adapters of the model, the service's own precision takes precedence.

    Args:
        results: Database with sweeps; it need not exist.
        trait: The trait's name in the sweeps.
        info: The model; settings of other models do not count.

    Returns:
        The choice; None where no sweep of the trait found an effect.

    Raises:
        ResultsError: The database cannot be read.
    """
    if not results.path.exists():
        return None
    columns, rows, *_ = results.query(_BEST)
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    found = [r for r in found if (r["trait"], r["model"]) == (trait, info.model) and 0 <= r["layer"] < info.n_layers]
    if not found:
        return None
    own = info.quantization or info.dtype
    best = min(found, key=lambda r: (r["precision"] != own, r["precision"], r["adapter"]))
    swept = f"{best['n_layers']} layers swept" if best["n_layers"] > 1 else "the only layer swept"
    return best["layer"], (
        f"{BY_STEERING}: the best coherent setting in {results.path.name} is layer {best['layer']} with {best['method']}, "
        f"coefficient {best['coefficient']:g} {best['unit']}, which moves the {best['measure']} score by "
        f"{best['delta']:+.3g} [{best['ci_low']:.3g}, {best['ci_high']:.3g}] (n = {best['n']}, coherence "
        f"{best['coherence']:.0f}, {best['precision']}), beyond random directions; {swept}. The same prompts chose the layer."
    )


def choose_layer(evidence: Mapping[int, LayerEvidence]) -> LayerChoice:
    """The layer nearest to half of the depth, among the middle layers that evidence cannot distinguish.

    Those are the layers between 40 % and 60 % of the depth whose held-out AUC is within 0.02, and held-out Cohen's d
    within 10 %, of the best of them. Discrimination does not show which layers steer: on written pairs the held-out AUC
    is 1 on almost every layer, late ones included, where adding the direction does little. So depth decides, and
    evidence only rules layers out. Where the choice matters, sweep the layers.

    Args:
        evidence: Layer -> evidence for its direction; all layers of the model.

    Returns:
        `(layer, reason)`.
    """
    window, half = middle_layers(len(evidence)), len(evidence) // 2
    best_auc = max(_auc(evidence[layer]) for layer in window)
    separable = [layer for layer in window if _auc(evidence[layer]) >= best_auc - AUC_TOLERANCE]
    best_effect = max(_effect(evidence[layer]) for layer in separable)
    floor = best_effect - EFFECT_TOLERANCE * abs(best_effect) if math.isfinite(best_effect) else best_effect
    candidates = [layer for layer in separable if _effect(evidence[layer]) >= floor]
    chosen = min(candidates, key=lambda layer: (abs(layer - half), layer))
    return chosen, (
        f"{BY_EVIDENCE}, without steering results. Nearest to half of the depth among layers "
        f"{', '.join(map(str, candidates))}: of the middle layers "
        f"{window[0]}..{window[-1]}, those with a held-out AUC within {AUC_TOLERANCE:g} of the best ({best_auc:.2f}) and "
        f"a Cohen's d within {EFFECT_TOLERANCE:.0%} of the best ({best_effect:.2f}), by mean_diff. Discrimination does "
        "not prove that a layer steers."
    )


def chosen_by(metadata: VectorMetadata) -> str:
    """The origin of a vector file's layer: `steering`, `evidence`, or `import` if nothing is known of its effect."""
    for by, beginning in (("steering", BY_STEERING), ("evidence", BY_EVIDENCE)):
        if metadata.chosen_because.startswith(beginning):
            return by
    return "import"


def middle_layers(n_layers: int) -> list[int]:
    """Layers between 40 % and 60 % of the depth, where layer l is at l / (n_layers - 1); at least one."""
    last = n_layers - 1
    window = list(range(math.ceil(WINDOW[0] * last), math.floor(WINDOW[1] * last) + 1))
    return window or [n_layers // 2]


def _auc(evidence: LayerEvidence) -> float:
    return 0.0 if evidence.auc is None else evidence.auc


def _effect(evidence: LayerEvidence) -> float:
    """Cohen's d; without spread, infinity with the sign of the separation."""
    if evidence.cohens_d is not None:
        return evidence.cohens_d
    return math.copysign(math.inf, evidence.separation)
