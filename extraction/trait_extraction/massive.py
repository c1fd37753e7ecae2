"""Massive dimensions: a few dimensions of the residual stream that lie far above the rest on every text.

They say little about a text, and can outweigh everything else in a direction (massive activations: Sun et al. 2024, arXiv
2402.17762). They are found once for a model (`trait_extraction.reading.calibration`), and left out on request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FACTOR = 50.0
"""A dimension is massive if its mean magnitude is more than this many times that of the layer's median dimension."""
SINK_FACTOR = 5.0
"""A position is a sink if its mean norm is more than this many times that of the median position, on some layer."""
SUFFIX = ".clean"
"""The end of the name of a vector without massive dimensions."""

RULE = f"mean |h_j| > {FACTOR:g} times the median over j, over the first positions of neutral texts"


@dataclass(frozen=True)
class MassiveDimensions:
    """The massive dimensions of a model, and the positions that are sinks.

    Args:
        dimensions: Layer -> dimensions, ascending; layers without any are missing.
        sinks: Position -> its mean norm over that of the median position, on the layer where it is largest.
    """

    dimensions: Mapping[int, tuple[int, ...]]
    sinks: Mapping[int, float]

    @classmethod
    def of(cls, magnitude: npt.NDArray[np.float64], norms: npt.NDArray[np.float64]) -> "MassiveDimensions":
        """Find them.

        Args:
            magnitude: `(n_layers, d_model)`: mean |h_j| over positions and texts, residual units.
            norms: `(n_positions, n_layers)`: mean norm at each position, residual units.
        """
        above = magnitude > FACTOR * np.median(magnitude, axis=1, keepdims=True)
        dimensions = {layer: tuple(map(int, np.flatnonzero(row))) for layer, row in enumerate(above) if row.any()}
        ratios = (norms / np.median(norms, axis=0)).max(axis=1)
        return cls(dimensions, {at: float(ratio) for at, ratio in enumerate(ratios) if ratio > SINK_FACTOR})

    def as_json(self) -> dict[str, Any]:
        """JSON values of the rule, the dimensions and the sinks; layers and positions are strings."""
        dimensions = {str(layer): list(found) for layer, found in self.dimensions.items()}
        return {"rule": RULE, "dimensions": dimensions, "sinks": {str(at): ratio for at, ratio in self.sinks.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "MassiveDimensions":
        """The reverse of `as_json`."""
        dimensions = {int(layer): tuple(found) for layer, found in value["dimensions"].items()}
        return cls(dimensions, {int(at): ratio for at, ratio in value["sinks"].items()})

    def without(self, rows: npt.NDArray[np.float32], layer: int) -> npt.NDArray[np.float32]:
        """A copy of `(..., d_model)` activations of a layer with its massive dimensions at 0."""
        cleaned = rows.copy()
        cleaned[..., list(self.dimensions.get(layer, ()))] = 0
        return cleaned

    def sentence(self) -> str:
        """The dimensions with their layers, and the sinks, for a person."""
        layers: dict[int, list[int]] = {}
        for layer, found in sorted(self.dimensions.items()):
            for dimension in found:
                layers.setdefault(dimension, []).append(layer)
        named = ", ".join(f"{dimension} (on {_spans(on)})" for dimension, on in sorted(layers.items())) or "none"
        sinks = ", ".join(f"{at} ({ratio:.0f} times the median norm)" for at, ratio in self.sinks.items()) or "none"
        return f"massive dimensions: {named}; sinks at positions: {sinks}"


def _spans(layers: list[int]) -> str:
    """Ascending layers as spans: `layers 1-8, 11`."""
    spans: list[list[int]] = []
    for layer in layers:
        if spans and layer == spans[-1][-1] + 1:
            spans[-1].append(layer)
        else:
            spans.append([layer])
    named = ", ".join(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)
    return f"layer{'s' if len(layers) > 1 else ''} {named}"
