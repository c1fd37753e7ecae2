"""Linear probe."""

from typing import Any

import numpy as np
import numpy.typing as npt

from trait_extraction.methods.direction import DirectionError, unit_direction

OPTIONS: dict[str, Any] = {
    "classifier": "logistic regression",
    "rows": "unit length",
    "features": "standardised",
    "penalty": "l2",
    "C": 1.0,
    "solver": "lbfgs",
    "max_iter": 2000,
}

_CONSTANT = 1e-12
"""A feature (of rows of unit length) that varies less than this carries nothing."""


def probe(
    positive: npt.NDArray[np.float32],
    negative: npt.NDArray[np.float32],
    generator: np.random.Generator,  # noqa: ARG001 - every method has one signature
) -> npt.NDArray[np.float32]:
    """Weight of a logistic regression, mapped back to the residual stream.

    Rows are scaled to unit length (`u = h / |h|`), features standardised (`z = (u - mu) / sigma`), and
    `P(positive) = sigmoid(w . z + b)` is fitted with an l2 penalty. Since `w . z = (w / sigma) . u - const`, the
    direction of the residual stream is `d = (w / sigma) / |w / sigma|`. Linear probes: Alain and Bengio 2016 (arXiv
    1610.01644); as steering directions, Li et al. 2023 (arXiv 2306.03341).

    Args:
        positive: `(n, d_model)` float32, residual units.
        negative: `(n, d_model)` float32, residual units.
        generator: Not used: lbfgs starts from zero.

    Returns:
        `(d_model,)` float32 unit direction.

    Raises:
        DirectionError: An activation is zero or not finite, the classes do not differ, or the fit did not converge.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - two seconds that `check` need not wait

    rows = np.concatenate([positive, negative]).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not (norms > 0).all():
        raise DirectionError(
            f"{int((~np.isfinite(norms) | (norms == 0)).sum())} of {len(rows)} activations are zero or not finite: "
            "they have no direction to probe"
        )
    rows /= norms
    mu, sigma = rows.mean(axis=0), rows.std(axis=0)
    varying = sigma > _CONSTANT
    standardised = np.divide(rows - mu, sigma, out=np.zeros_like(rows), where=varying)
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    # l2 is scikit-learn's default, and naming it is deprecated.
    model = LogisticRegression(C=OPTIONS["C"], solver=OPTIONS["solver"], max_iter=OPTIONS["max_iter"])
    model.fit(standardised, labels)
    if int(model.n_iter_[0]) >= OPTIONS["max_iter"]:
        raise DirectionError(f"the logistic regression did not converge in {OPTIONS['max_iter']} iterations")
    weight = np.divide(model.coef_[0], sigma, out=np.zeros_like(sigma), where=varying)
    return unit_direction(weight, positive, negative)
