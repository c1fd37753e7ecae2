"""Conversion of a coefficient to residual units: the only place with these formulas.

    dose         a = coefficient * residual_norm / 10
    separation   a = coefficient * separation
    raw          a = coefficient

`add`, `set`, `floor`, `ceiling` and `replace` take a unit; `ablate`, `scale` and `rotate` do not.
"""

import math

from trait_core.schema import LayerEvidence, Operation, Unit

UNITLESS: frozenset[Operation] = frozenset({"ablate", "scale", "rotate"})


def residual_units(coefficient: float, unit: Unit, evidence: LayerEvidence) -> float:
    """The coefficient in residual units, on the layer that `evidence` describes; it may overflow to infinity."""
    match unit:
        case "dose":
            return coefficient * evidence.residual_norm / 10
        case "separation":
            return coefficient * evidence.separation
        case "raw":
            return coefficient


def relative_dose(operation: Operation, value: float, residual_norm: float) -> float:
    """The size of a change, relative to the layer's residual norm.

    Args:
        operation: The operation.
        value: Its number, residual units; `rotate`: the angle in degrees.
        residual_norm: Mean norm of the layer's residual stream, above 0.

    Returns:
        `|value| / residual_norm`; `rotate`: the distance that the angle moves a stream, over its norm, at most 2; 0 for
        `ablate` and `scale`, whose change depends on the stream alone.
    """
    if operation == "rotate":
        return 2 * abs(math.sin(math.radians(value) / 2))
    return 0.0 if operation in UNITLESS else abs(value) / residual_norm
