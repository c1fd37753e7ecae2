"""The verdict on one vector: how far a variant moves the same texts along it, beside random directions.

Training moves a text a little along almost every direction, so that a difference with an interval above 0 is not yet a
finding. A finding is also larger, in d_z, than along 95 per cent of random unit directions on the same layer.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from trait_core.statistics import PairedShift, paired_shift, standardised_means

Floats = npt.NDArray[np.float64]
Verdict = Literal["found", "not beyond random", "no difference", "too few prompts"]

N_RANDOM = 500
BEYOND = 0.95
"""Share of random directions that a finding exceeds."""
FEWEST = 5
"""Fewest prompts of a verdict: with fewer, an interval says nothing."""
TOLERANCE = 1e-3
"""Least mean difference, as a share of the layer's residual norm; below it, the models count as equal."""


@dataclass(frozen=True)
class Effect:
    """Variant minus base along one direction, paired by prompt.

    Attributes:
        base: Mean projection of the base, over prompts, minus the vector's centre, residual units.
        variant: The same of the variant.
        shift: Mean difference and d_z with their intervals.
        random_dz: |d_z| that 95 per cent of random directions stay below; None if there is no spread.
        beyond: Share of random directions with a smaller |d_z|.
        verdict: `found` if the interval excludes 0, |d_z| is above `random_dz` and the mean difference above the tolerance.
    """

    base: float
    variant: float
    shift: PairedShift
    random_dz: float | None
    beyond: float | None
    verdict: Verdict


def effect(base: Floats, variant: Floats, change: Floats, directions: Floats, residual_norm: float) -> Effect:
    """Compare two models along one direction.

    Args:
        base: Mean projection of each prompt's text, `(n_prompts,)`, residual units.
        variant: The same of the variant.
        change: Mean residual stream, variant minus base, `(n_prompts, d_model)`: the random directions' differences.
        directions: Random unit directions, `(d_model, n_random)`.
        residual_norm: Mean norm of the stream on the layer, from the vector file.

    Raises:
        InvalidRequestError: There are no prompts.
    """
    shift = paired_shift(variant - base)
    random = np.abs(standardised_means(change.astype(np.float64) @ directions))
    random = random[np.isfinite(random)]
    chance = float(np.quantile(random, BEYOND)) if len(random) else None
    beyond = float((random < abs(shift.dz)).mean()) if len(random) and shift.dz is not None else None
    verdict = _verdict(shift, chance, TOLERANCE * residual_norm)
    return Effect(float(base.mean()), float(variant.mean()), shift, chance, beyond, verdict)


def random_directions(d_model: int, layer: int) -> Floats:
    """The random unit directions of a layer, `(d_model, N_RANDOM)`, the same on every run."""
    drawn = np.random.default_rng([0, layer]).standard_normal((d_model, N_RANDOM))
    unit: Floats = drawn / np.linalg.norm(drawn, axis=0)
    return unit


def _verdict(shift: PairedShift, chance: float | None, tolerance: float) -> Verdict:
    if shift.n < FEWEST or shift.interval is None:
        return "too few prompts"
    low, high = shift.interval
    if abs(shift.mean) <= tolerance or low <= 0 <= high:
        return "no difference"
    # Differences without any spread have no d_z: they are as large as can be, and so are those of random directions.
    if shift.dz is None or chance is None:
        return "not beyond random"
    return "found" if abs(shift.dz) > chance else "not beyond random"
