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
) -> LayerEvidence:
    """Measure a direction on one layer.

    `separation = mean(h+ . d) - mean(h- . d)` and `centre = (mean(h+ . d) + mean(h- . d)) / 2` over training
    scenarios. Over held-out ones: accuracy with the centre as threshold, AUC, Cohen's d, and polarity, the part of the
    pairs whose positive projects above its negative.

    Args:
        direction: `(d_model,)` float32, unit length.
        positive: `(n, d_model)` float32, residual units; all scenarios.
        negative: `(n, d_model)` float32, residual units; all scenarios.
        split: The scenarios that the direction was fitted on, and those held out.
        residual_norm: Mean token norm of the layer, residual units.

    Returns:
        The layer's entry of a vector file.
    """
    wide = direction.astype(np.float64)
    projected = positive.astype(np.float64) @ wide, negative.astype(np.float64) @ wide
    train_positive, train_negative = (side[split.train] for side in projected)
    test_positive, test_negative = (side[split.held_out] for side in projected)
    separation = float(train_positive.mean() - train_negative.mean())
    centre = float(train_positive.mean() + train_negative.mean()) / 2
    return LayerEvidence(
        separation=separation,
        centre=centre,
        residual_norm=residual_norm,
        accuracy=float(((test_positive > centre).mean() + (test_negative <= centre).mean()) / 2),
        auc=auc(test_positive, test_negative),
        cohens_d=cohens_d(test_positive, test_negative),
        polarity=float((test_positive > test_negative).mean() + (test_positive == test_negative).mean() / 2),
    )
