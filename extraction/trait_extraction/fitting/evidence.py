"""Evidence for a direction: its scale over the training scenarios, its discrimination over held-out ones."""

import numpy as np
import numpy.typing as npt
from trait_core.schema import LayerEvidence
from trait_core.statistics import auc, cohens_d

from trait_extraction.data.split import Split


def layer_evidence(
    direction: npt.NDArray[np.float32],
    positive: npt.NDArray[np.float32],
    negative: npt.NDArray[np.float32],
    split: Split,
    residual_norm: float,
    *,
    paired: bool = True,
) -> LayerEvidence:
    """Measure a direction on one layer.

    `separation = mean(h+ . d) - mean(h- . d)` and `centre = (mean(h+ . d) + mean(h- . d)) / 2` over training
    scenarios. Over held-out ones: accuracy with the centre as threshold (mean of the two sides'), AUC, Cohen's d, and
    polarity, the part of the pairs whose positive projects above its negative; without pairs, of all positives and
    negatives, which is the AUC.

    Args:
        direction: `(d_model,)` float32, unit length.
        positive: `(n, d_model)` float32, residual units; all scenarios.
        negative: `(m, d_model)` float32, residual units; all scenarios.
        split: The scenarios that the direction was fitted on, and those held out.
        residual_norm: Mean token norm of the layer, residual units.
        paired: True if row i of both sides is one pair.

    Returns:
        The layer's entry of a vector file.
    """
    wide = direction.astype(np.float64)
    projected = positive.astype(np.float64) @ wide, negative.astype(np.float64) @ wide
    train, held_out = split.train, split.held_out
    train_positive, train_negative = projected[0][train.positive], projected[1][train.negative]
    test_positive, test_negative = projected[0][held_out.positive], projected[1][held_out.negative]
    separation = float(train_positive.mean() - train_negative.mean())
    centre = float(train_positive.mean() + train_negative.mean()) / 2
    found = auc(test_positive, test_negative)
    return LayerEvidence(
        separation=separation,
        centre=centre,
        residual_norm=residual_norm,
        accuracy=float(((test_positive > centre).mean() + (test_negative <= centre).mean()) / 2),
        auc=found,
        cohens_d=cohens_d(test_positive, test_negative),
        polarity=_polarity(test_positive, test_negative) if paired else found,
    )


def _polarity(positive: npt.NDArray[np.float64], negative: npt.NDArray[np.float64]) -> float:
    """Part of the pairs whose positive is above its negative, `(n,)` each; ties count half."""
    return float((positive > negative).mean() + (positive == negative).mean() / 2)
