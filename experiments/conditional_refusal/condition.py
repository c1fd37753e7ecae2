"""The condition: a direction that separates alarming prompts from harmless ones, its layer and its bound, from training prompts alone.

A gate with `hold: "prompt"` compares the mean projection of all prompt positions with a bound. Directions are therefore fitted on
just that mean (`prompt[:]`). The first position is an attention sink, whose stream is many times longer than the others: the part
of a direction along it is taken out, so that the number of tokens does not decide.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from trait_core.statistics import auc
from trait_extraction.fitting.methods.mean_diff import mean_diff
from trait_extraction.fitting.methods.probe import probe

Array = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Method = Callable[[Array, Array, np.random.Generator], Array]

METHODS: dict[str, Method] = {"mean_diff": mean_diff, "probe": probe}
FOLDS = 5


@dataclass(frozen=True)
class Condition:
    """A direction on a layer with a bound: a prompt is caught if its mean projection is above it.

    Attributes:
        direction: `(d_model,)` float32, unit length.
        bound: Residual units.
        auc: Of alarming against harmless training prompts, each projected on a direction that was fitted without its fold.
        caught: Share of the alarming training prompts above the bound.
        false_alarms: Share of the harmless training prompts above it, those in alarming words among them.
    """

    name: str
    method: str
    layer: int
    direction: Array
    bound: float
    auc: float
    caught: float
    false_alarms: float

    def opens(self, means: Array) -> Bools:
        """The prompts that it catches, from the means of their positions `(n, d_model)`."""
        return self.project(means) > self.bound

    def project(self, means: Array) -> npt.NDArray[np.float64]:
        """Mean projections, `(n,)`, residual units."""
        return means.astype(np.float64) @ self.direction.astype(np.float64)

    def row(self) -> dict[str, str | int | float]:
        """Convert to columns of a table."""
        return {
            "gate": self.name, "method": self.method, "layer": self.layer, "bound": self.bound, "train_auc": self.auc,
            "train_caught": self.caught, "train_false_alarms": self.false_alarms,
        }  # fmt: skip


def fitted(means: dict[int, Array], sinks: dict[int, Array], alarming: Bools) -> Condition:
    """Choose method and layer by cross-validated AUC, ties to the lower layer, and fit on all training prompts.

    Args:
        means: Layer -> mean stream of each training prompt, `(n, d_model)`.
        sinks: Layer -> stream of the first position, `(d_model,)`.
        alarming: `(n,)`.
    """
    scored = {
        (layer, method): cross_validated(
            means[layer], alarming, lambda a, b, m=method, at=layer: fit(m, a, b, sinks[at])
        )
        for layer in sorted(means)
        for method in METHODS
    }
    areas = {key: auc(values[alarming], values[~alarming]) for key, values in scored.items()}
    layer, method = max(areas, key=areas.__getitem__)
    direction = fit(method, means[layer][alarming], means[layer][~alarming], sinks[layer])
    return bounded("condition", method, layer, direction, means[layer], alarming, areas[layer, method])


def fit(method: str, positive: Array, negative: Array, sink: Array) -> Array:
    """A unit direction that is orthogonal to the sink."""
    return orthogonal(METHODS[method](positive, negative, np.random.default_rng(0)), sink)


def random_condition(name: str, seed: int, layer: int, means: Array, sink: Array, alarming: Bools) -> Condition:
    """The control: a random direction, turned to the side on which alarming prompts lie, with its best bound."""
    direction = orthogonal(np.random.default_rng(seed).standard_normal(len(sink)).astype(np.float32), sink)
    area = auc(*sides(means @ direction, alarming))
    direction = direction if area >= 0.5 else -direction
    return bounded(name, "random", layer, direction, means, alarming, max(area, 1 - area))


def bounded(
    name: str, method: str, layer: int, direction: Array, means: Array, alarming: Bools, area: float
) -> Condition:
    """The condition with the bound that is best on the training prompts."""
    at = best_bound(*sides(means.astype(np.float64) @ direction.astype(np.float64), alarming))
    found = Condition(name, method, layer, direction, at, area, 0.0, 0.0)
    caught, wrong = (float(part.mean()) for part in sides(found.opens(means), alarming))
    return Condition(name, method, layer, direction, at, area, caught, wrong)


def cross_validated(means: Array, alarming: Bools, fit_on: Callable[[Array, Array], Array]) -> npt.NDArray[np.float64]:
    """Each prompt's projection on the direction of the other folds, minus the midpoint of their classes; prompts take turns."""
    folds = np.arange(len(means)) % FOLDS
    values = np.empty(len(means))
    for fold in range(FOLDS):
        inside = folds == fold
        positive, negative = means[~inside & alarming], means[~inside & ~alarming]
        direction = fit_on(positive, negative)
        middle = (positive.mean(axis=0) + negative.mean(axis=0)) / 2
        values[inside] = (means[inside] - middle) @ direction
    return values


def best_bound(positive: Iterable[float], negative: Iterable[float]) -> float:
    """The bound with the largest share of positives above it minus that of negatives; the middle, where a stretch is equally good."""
    high, low = np.sort(np.array(list(positive))), np.sort(np.array(list(negative)))
    values = np.unique(np.concatenate([high, low]))
    cuts = (values[1:] + values[:-1]) / 2
    gains = [(high > cut).mean() - (low > cut).mean() for cut in cuts]
    best = np.flatnonzero(np.isclose(gains, max(gains)))
    return float(cuts[best[len(best) // 2]])


def orthogonal(direction: Array, sink: Array) -> Array:
    """The direction without its part along the sink, at unit length."""
    d, s = direction.astype(np.float64), sink.astype(np.float64)
    left = d - (d @ s) / (s @ s) * s
    return (left / np.linalg.norm(left)).astype(np.float32)


def sides(values: npt.NDArray[np.generic], alarming: Bools) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    """The values of alarming prompts, and those of the others."""
    return values[alarming], values[~alarming]
