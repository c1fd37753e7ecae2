"""`when` of a term: from a vector's name and a unit to a direction and a bound in residual units."""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field
from trait_core.errors import InvalidRequestError
from trait_core.schema import AppliedGate, AppliedTerm, Gate

from trait_service.engine.gates import MAX_GATES
from trait_service.engine.spec import GateSpec
from trait_service.resolving.given import GivenVector


class ResolvedGate(AppliedGate):
    """A gate: what the response reports, and what the engine needs beyond that.

    Attributes:
        direction: sha256 (hex) of the direction's float32 bytes.
        raw: The direction's float32 little-endian bytes.
    """

    direction: Annotated[str, Field(exclude=True)]
    raw: Annotated[bytes, Field(exclude=True, repr=False)]

    def spec(self) -> GateSpec:
        """The gate as it travels to the workers."""
        above, below = (None, self.bound) if self.above is None else (self.bound, None)
        return GateSpec(layer=self.layer, direction=self.direction, above=above, below=below, hold=self.hold)


def resolved_gate(gate: Gate, vector: GivenVector, layer: int, where: str) -> ResolvedGate:
    """Resolve a gate on its layer; `where` is the field that holds it.

    Raises:
        InvalidRequestError: Its bound is not a float32 number, or needs what is not known of an inline vector.
    """
    if not vector.has_separation and (gate.centred or gate.unit == "separation"):
        field = "centred" if gate.centred else "unit"
        raise InvalidRequestError(
            "an inline vector has neither a centre nor a separation, since nothing is known of its examples: set centred to false, and "
            "give the bound in the unit raw",
            param=f"{where}.{field}",
        )
    direction, raw = vector.directions[layer]
    return ResolvedGate(
        **gate.model_dump(exclude={"vector", "layer"}),
        vector=vector.name,
        sha256=vector.sha256,
        layer=layer,
        bound=_bound(gate, vector, layer, where),
        direction=direction,
        raw=raw,
    )


def _bound(gate: Gate, vector: GivenVector, layer: int, where: str) -> float:
    """The bound in residual units, with the centre added."""
    evidence = vector.evidence[layer]
    given = gate.below if gate.above is None else gate.above
    assert given is not None, "the schema requires one"
    if gate.unit == "separation" and evidence.separation <= 0:
        raise InvalidRequestError(
            f"vector {vector.name!r} states a separation of {evidence.separation}, which cannot be a unit: give the bound in the unit raw",
            param=f"{where}.unit",
        )
    bound = given * (evidence.separation if gate.unit == "separation" else 1) + gate.centred * evidence.centre
    if not math.isfinite(bound) or abs(bound) > float(np.finfo(np.float32).max):
        raise InvalidRequestError(f"bound {given:g} {gate.unit} is not a finite float32 number", param=where)
    return bound


def check_gates(applied: Sequence[AppliedTerm]) -> None:
    """Refuse more distinct gates than a request may have.

    Raises:
        InvalidRequestError: Names the number and the limit.
    """
    gates = {(gate.sha256, gate.layer, gate.above is None, gate.bound, gate.hold) for gate in _gates(applied)}
    if len(gates) > MAX_GATES:
        raise InvalidRequestError(
            f"{len(gates)} different gates in one request; at most {MAX_GATES}", param="steering.terms"
        )


def _gates(applied: Sequence[AppliedTerm]) -> list[AppliedGate]:
    return [term.when for term in applied if term.when is not None]
