"""Extraction methods: each turns the two classes' activations of one layer into a unit direction.

A method is a plain function. `METHODS` names them; `METHOD_OPTIONS` states what is fixed inside each, and goes into
the vector file. A new method is one file and two lines here.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from trait_extraction.methods.direction import DirectionError
from trait_extraction.methods.mean_diff import OPTIONS as MEAN_DIFF_OPTIONS
from trait_extraction.methods.mean_diff import mean_diff
from trait_extraction.methods.probe import OPTIONS as PROBE_OPTIONS
from trait_extraction.methods.probe import probe
from trait_extraction.methods.random import OPTIONS as RANDOM_OPTIONS
from trait_extraction.methods.random import random

__all__ = ["METHODS", "METHOD_OPTIONS", "DirectionError", "Method"]

Method = Callable[
    [npt.NDArray[np.float32], npt.NDArray[np.float32], np.random.Generator],
    npt.NDArray[np.float32],
]
"""`(positive, negative, generator) -> direction`: `(n, d_model)` float32 each, residual units, row i of both from
scenario i; a `(d_model,)` float32 unit direction on which the positives' mean projects higher."""

METHODS: dict[str, Method] = {"mean_diff": mean_diff, "probe": probe, "random": random}

METHOD_OPTIONS: dict[str, dict[str, Any]] = {
    "mean_diff": MEAN_DIFF_OPTIONS,
    "probe": PROBE_OPTIONS,
    "random": RANDOM_OPTIONS,
}
