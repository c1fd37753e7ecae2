"""Extraction methods: each turns the two classes' activations of one layer into a unit direction.

A method is one file and one line here: `<name>.py` defines the plain function `<name>` with its formula and source, and
`OPTIONS`, which lists its fixed options for the vector file.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from trait_extraction.fitting.methods.direction import DirectionError

__all__ = ["METHODS", "METHOD_OPTIONS", "UNPAIRED_METHODS", "UNPAIRED_OPTIONS", "DirectionError", "Method"]

Method = Callable[
    [npt.NDArray[np.float32], npt.NDArray[np.float32], np.random.Generator],
    npt.NDArray[np.float32],
]
"""`(positive, negative, generator) -> direction`: `(n, d_model)` and `(m, d_model)` float32, residual units; a `(d_model,)`
float32 unit direction on which the positives' mean projects higher. In `METHODS` n = m, and row i of both is one pair."""

_FILES = (
    "mean_diff",
    "probe",
    "gradient",
    "pca",
    "random",
)

_modules = {name: import_module(f"{__name__}.{name}") for name in _FILES}

METHODS: dict[str, Method] = {name: getattr(module, name) for name, module in _modules.items()}

UNPAIRED_METHODS: dict[str, Method] = METHODS | {"pca": _modules["pca"].pca_unpaired}
"""The methods for sides that are not paired; only `pca` has another formula there."""

METHOD_OPTIONS: dict[str, dict[str, Any]] = {name: module.OPTIONS for name, module in _modules.items()}

UNPAIRED_OPTIONS: dict[str, dict[str, Any]] = METHOD_OPTIONS | {"pca": _modules["pca"].UNPAIRED_OPTIONS}
"""The same for sides that are not paired."""
