"""How similar the directions of one vector are: those of its layers, and those of other methods."""

import numpy as np
from trait_core.tables import Cell, Column, Table
from trait_core.vectors.file import VectorFile

from trait_extraction.fitting.geometry import cross_layer_cosines

MOST_LAYERS = 8
"""Number of layers in the table; `--json` has all."""


def similarity_table(vector: VectorFile) -> Table:
    """Table of cosines: between layers, the first, the last and the chosen one among them, and with other methods on each."""
    layers, cosines = cross_layer_cosines(vector.directions)
    meta = vector.metadata
    shown = _some(layers, meta.chosen_layer)
    at = [layers.index(layer) for layer in shown]
    rows: list[list[Cell]] = [
        [f"{'* ' if layer == meta.chosen_layer else ''}layer {layer}", *(f"{cosines[i, j]:.2f}" for j in at)]
        for layer, i in zip(shown, at, strict=True)
    ]
    others = list(dict.fromkeys(name for layer in shown for name in meta.layers[layer].cosine_methods or {}))
    for name in others:
        found = [(meta.layers[layer].cosine_methods or {}).get(name) for layer in shown]
        rows.append([f"{name}, same layer", *("-" if value is None else f"{value:.2f}" for value in found)])
    columns = [Column("cosine with"), *(Column(str(layer), right=True, optional=True) for layer in shown)]
    return Table(columns, rows, title="Similarity of the directions", marked=[shown.index(meta.chosen_layer)])


def _some(layers: list[int], chosen: int) -> list[int]:
    if len(layers) <= MOST_LAYERS:
        return layers
    spread = [layers[round(i)] for i in np.linspace(0, len(layers) - 1, MOST_LAYERS)]
    nearest = min(spread[1:-1], key=lambda layer: abs(layer - chosen))
    return spread if chosen in spread else sorted([*(layer for layer in spread if layer != nearest), chosen])
