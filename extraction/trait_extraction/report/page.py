"""A trait's report as one HTML file, drawn by the dashboard's own JavaScript (`evidence.js`)."""

from typing import Any

from trait_client.dashboard.single_file import single_file
from trait_core.schema import LayerEvidence
from trait_core.vectors.file import VectorFile

from trait_extraction.fitting.geometry import agreement, cross_layer_cosines
from trait_extraction.fitting.layer_choice import chosen_by
from trait_extraction.report.content import MOST_TEXTS, Text, TraitReport


def page(report: TraitReport) -> str:
    """The page of one trait, HTML."""
    return single_file("evidence.js", f"{report.name} · trait vectors", page_data(report))


def page_data(report: TraitReport) -> dict[str, Any]:
    """The numbers and texts of the page, JSON values."""
    meta = report.main.metadata
    return {
        "name": report.name,
        "model": meta.model,
        "n_layers": meta.n_layers,
        "d_model": meta.d_model,
        "style": meta.style,
        "n_pairs": meta.n_positive,
        "n_held_out": meta.n_held_out,
        "positions": meta.positions,
        "layer": report.layer,
        "chosen_by": chosen_by(meta),
        "chosen_because": meta.chosen_because,
        "main_method": meta.method,
        "methods": [
            {"method": method, "layers": [_layer(n, at) for n, at in sorted(vector.metadata.layers.items())]}
            for method, vector in report.vectors.items()
        ],
        "held_out": [
            {"method": method, "positive": positive.tolist(), "negative": negative.tolist()}
            for method, (positive, negative) in report.held_out.items()
        ],
        "neighbours": [{"name": each.name, "cosine": each.cosine} for each in report.neighbours],
        "random_cosine": 2 / meta.d_model**0.5,
        "cross_layer": _cross_layer(report.main),
        "lens": None if report.lens is None else report.lens.model_dump(),
        "agreement": [
            {"methods": list(pair), "layers": [{"layer": layer, "cosine": value} for layer, value in cosines.items()]}
            for pair, cosines in agreement({m: vector.directions for m, vector in report.vectors.items()}).items()
        ],
        "texts": None if report.texts is None else _ends(report.texts),
        "texts_missing": report.texts_missing,
    }


def _cross_layer(vector: VectorFile) -> dict[str, Any]:
    layers, cosines = cross_layer_cosines(vector.directions)
    return {"layers": layers, "cosines": cosines.round(4).tolist()}


def _layer(layer: int, at: LayerEvidence) -> dict[str, Any]:
    return {
        "layer": layer,
        "auc": at.auc,
        "auc_interval": at.auc_interval,
        "accuracy": at.accuracy,
        "accuracy_interval": at.accuracy_interval,
        "cohens_d": at.cohens_d,
        "cohens_d_interval": at.cohens_d_interval,
        "separation": at.separation,
        "relative_separation": at.separation / at.residual_norm,
    }


def _ends(texts: list[Text]) -> dict[str, list[dict[str, Any]]]:
    """The texts at either end, the most extreme first."""
    highest, lowest = texts[:MOST_TEXTS], reversed(texts[-MOST_TEXTS:])
    return {"highest": [vars(text) for text in highest], "lowest": [vars(text) for text in lowest]}
