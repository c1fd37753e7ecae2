"""Directions fitted to activations, by every method, on every layer."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trait_extraction.data.split import Split
from trait_extraction.fitting.methods import METHODS, UNPAIRED_METHODS, DirectionError
from trait_extraction.fitting.methods.direction import unit_direction
from trait_extraction.plan import Plan
from trait_extraction.reading.activations import ContrastiveActivations

logger = logging.getLogger(__name__)

Directions = dict[int, npt.NDArray[np.float32]]
"""Layer -> `(d_model,)` float32 unit direction."""

LAYER_METHOD = "mean_diff"
"""The method whose evidence chooses the layer, for all of them: methods and controls are compared on one layer."""


@dataclass(frozen=True)
class Fitted:
    """The directions of a plan.

    Args:
        wanted: Methods whose vectors are made.
        first: Method -> directions of the first split, for every method that finds them.
        further: Wanted method -> directions of each further split, in order.
    """

    wanted: tuple[str, ...]
    first: dict[str, Directions]
    further: dict[str, list[Directions]]


def fit(plan: Plan, activations: ContrastiveActivations, methods: Sequence[str]) -> Fitted:
    """Fit the methods on the training scenarios of each split.

    Every other method is fitted on the first split, too: a file's cosines must not depend on which methods were asked for.

    Args:
        plan: The trait and its splits.
        activations: Both sides on all layers.
        methods: Methods whose vectors are made.

    Raises:
        DirectionError: A layer has no direction; the message names method and layer.
    """
    first = {}
    for method in METHODS:
        try:
            first[method] = fit_directions(method, activations, plan.splits[0])
        except DirectionError as error:
            if method in {LAYER_METHOD, *methods}:
                raise
            logger.info("no cosine with %s", error)
    further = {method: [fit_directions(method, activations, split) for split in plan.splits[1:]] for method in methods}
    return Fitted(tuple(methods), first, further)


def fit_directions(method: str, activations: ContrastiveActivations, split: Split) -> Directions:
    """Fit a method on the training scenarios of every layer.

    Returns:
        Layer -> `(d_model,)` float32 unit direction.

    Raises:
        DirectionError: A layer has none; the message names method and layer.
    """
    directions = {}
    found = (METHODS if activations.paired else UNPAIRED_METHODS)[method]
    for layer in range(activations.positive.shape[1]):
        positive = activations.positive[split.train.positive, layer]
        negative = activations.negative[split.train.negative, layer]
        try:
            directions[layer] = found(positive, negative, np.random.default_rng([split.seed, layer]))
            if activations.massive is not None:  # a random start leaves something there, although both sides are 0
                kept = activations.massive.without(directions[layer], layer)
                directions[layer] = unit_direction(kept, positive, negative)
        except DirectionError as error:
            raise DirectionError(f"{method}, layer {layer}: {error}") from error
    return directions
