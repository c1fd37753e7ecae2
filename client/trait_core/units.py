"""Conversion of a coefficient to residual units: the only place with these formulas.

    dose         a = coefficient * residual_norm / 10
    separation   a = coefficient * separation
    raw          a = coefficient

`add`, `set`, `floor` and `ceiling` take a unit; `ablate` and `scale` do not.
"""

from trait_core.schema import LayerEvidence, Operation, Unit

UNITLESS: frozenset[Operation] = frozenset({"ablate", "scale"})


def residual_units(coefficient: float, unit: Unit, evidence: LayerEvidence) -> float:
    """The coefficient in residual units, on the layer that `evidence` describes; it may overflow to infinity."""
    match unit:
        case "dose":
            return coefficient * evidence.residual_norm / 10
        case "separation":
            return coefficient * evidence.separation
        case "raw":
            return coefficient
