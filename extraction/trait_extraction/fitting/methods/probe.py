"""Linear probe."""

from typing import Any

import numpy as np
import numpy.typing as npt

from trait_extraction.fitting.methods.direction import DirectionError, unit_direction

OPTIONS: dict[str, Any] = {
    "classifier": "logistic regression",
    "rows": "unit length",
    "features": "standardised, spread at least the median feature's",
    "penalty": "l2",
    "C": 1.0,
    "solver": "lbfgs",
    "max_iter": 2000,
}


def probe(
    positive: npt.NDArray[np.float32],
    negative: npt.NDArray[np.float32],
    generator: np.random.Generator,  # noqa: ARG001 - every method has one signature
) -> npt.NDArray[np.float32]:
    """Weight of a logistic regression, mapped back to the residual stream.

    Rows are scaled to unit length (`u = h / |h|`), features standardised (`z = (u - mu) / s`, `s = max(sigma,
    median(sigma))`), and `P(positive) = sigmoid(w . z + b)` is fitted with an l2 penalty. Since `w . z = (w / s) . u -
    const`, the direction of the residual stream is `d = (w / s) / |w / s|`. Linear probes: Alain and Bengio 2016 (arXiv
    1610.01644); as steering directions, Li et al. 2023 (arXiv 2306.03341).

    The spread has a floor because a dimension that holds nearly all of the norm is almost constant in rows of unit
    length: `w / sigma` would inflate its weight, and with it the noise of its large raw values.

    Args:
        positive: `(n, d_model)` float32, residual units.
        negative: `(n, d_model)` float32, residual units.
        generator: Not used: lbfgs starts from zero.

    Returns:
        `(d_model,)` float32 unit direction.

    Raises:
        DirectionError: An activation is zero or not finite, the classes do not differ, or the fit did not converge.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - takes two seconds, which other methods need not wait for

    rows = np.concatenate([positive, negative]).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not (norms > 0).all():
        raise DirectionError(
            f"{int((~np.isfinite(norms) | (norms == 0)).sum())} of {len(rows)} activations are zero or not finite: "
            "they have no direction to probe"
        )
    rows /= norms
    spread = rows.std(axis=0)
    spread = np.maximum(spread, np.median(spread))
    if not (spread > 0).all():
        raise DirectionError(
            "the direction is zero: more than half of the features never vary. Do the two sides differ at the "
            "positions that are read?"
        )
    standardised = (rows - rows.mean(axis=0)) / spread
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    # l2 is scikit-learn's default, and naming it is deprecated.
    model = LogisticRegression(C=OPTIONS["C"], solver=OPTIONS["solver"], max_iter=OPTIONS["max_iter"])
    model.fit(standardised, labels)
    if int(model.n_iter_[0]) >= OPTIONS["max_iter"]:
        raise DirectionError(f"the logistic regression did not converge in {OPTIONS['max_iter']} iterations")
    weight: npt.NDArray[np.float64] = model.coef_[0] / spread
    return unit_direction(weight, positive, negative)
