"""Evidence for many vectors as one CSV table, one row per vector at its chosen layer."""

import csv
import io
from collections.abc import Sequence

from trait_core.schema import VectorMetadata

from trait_extraction.fitting.layer_choice import chosen_by

_INTERVALS = ("accuracy", "auc", "cohens_d")


def evidence_csv(vectors: Sequence[VectorMetadata]) -> str:
    """CSV with one row per vector: held-out evidence with 95 % intervals, scale, and how the layer was chosen."""
    rows = [_row(metadata) for metadata in vectors]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(meta: VectorMetadata) -> dict[str, str | int | None]:
    at = meta.layers[meta.chosen_layer]
    row: dict[str, str | int | None] = {
        "trait": meta.trait,
        "method": meta.method,
        "layer": meta.chosen_layer,
        "chosen_by": chosen_by(meta),
        "n_pairs": meta.n_positive,
        "n_held_out": meta.n_held_out,
    }
    for name in _INTERVALS:
        low, high = getattr(at, f"{name}_interval") or (None, None)
        row |= {name: _number(getattr(at, name)), f"{name}_low": _number(low), f"{name}_high": _number(high)}
    return row | {
        "polarity": _number(at.polarity),
        "separation": _number(at.separation),
        "residual_norm": _number(at.residual_norm),
        "separation_of_norm": _number(at.separation / at.residual_norm),
        "cosine_mean_diff": _number((at.cosine_methods or {}).get("mean_diff")),
        "massive_share_of_direction": _number(at.massive_share_of_direction),
    }


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
