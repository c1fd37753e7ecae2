"""Resolves a request (names, units, chosen layers) to what the engine applies (directions, residual units).

Units are those of `trait_core.units`: for `add` a is what is added, for `set`, `floor` and `ceiling` the projection's
value or limit, for `replace` the stream's new length. `ablate` takes no number; `scale` and `rotate` take no unit: the
coefficient is the factor, and the angle in degrees.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from pydantic import Field
from trait_core.errors import InvalidRequestError, UnknownVectorError, VectorFileError
from trait_core.schema import (
    RESID_POST,
    AppliedTerm,
    Gate,
    HookPoint,
    InlineVector,
    LayerEvidence,
    Operation,
    PositionScope,
    Steering,
    SteeringTerm,
    last_gate_layer,
)
from trait_core.units import UNITLESS, relative_dose, residual_units
from trait_core.vectors.file import layer_ranges

from trait_service.engine.sites import missing
from trait_service.engine.spec import TermSpec
from trait_service.registry.registry import RegisteredVector
from trait_service.resolving.gates import ResolvedGate, check_gates, resolved_gate
from trait_service.resolving.given import GivenVector, Layered, orthonormal

MAX_FACTOR = 10.0
"""Largest factor of `scale`; beyond it projections are far outside the model's usual range."""

MAX_ANGLE = 180.0
"""Largest angle of `rotate`, degrees."""


class ResolvedTerm(AppliedTerm):
    """One vector on one layer: what the response reports, and what the engine needs beyond that.

    Attributes:
        asked: The request's term.
        direction: sha256 (hex) of the direction's float32 bytes.
        raw: The direction's float32 little-endian bytes.
    """

    when: ResolvedGate | None = None
    asked: Annotated[SteeringTerm, Field(exclude=True)]
    direction: Annotated[str, Field(exclude=True)]
    raw: Annotated[bytes, Field(exclude=True, repr=False)]

    def spec(self) -> TermSpec:
        """The term as it travels to the workers."""
        shared = {name: value for name, value in (*self.asked, *self) if name in TermSpec.model_fields}
        scope = self.scope.positions if isinstance(self.scope, PositionScope) else self.scope
        gate = None if self.when is None else self.when.spec()
        return TermSpec(**shared | {"value": self.a, "scope": scope, "when": gate})


@dataclass(frozen=True)
class ResolvedSteering:
    """One request's steering, ready for the engine.

    Args:
        applied: One for each term and layer, in the order given.
    """

    applied: tuple[ResolvedTerm, ...] = ()

    @cached_property
    def terms(self) -> tuple[TermSpec, ...]:
        """The terms as they travel to the workers, one for each of `applied`."""
        return tuple(term.spec() for term in self.applied)

    @cached_property
    def directions(self) -> dict[str, bytes]:
        """sha256 hex -> float32 bytes of every direction in use."""
        gates = {gate.direction: gate.raw for gate in self._gates}
        return gates | {term.direction: term.raw for term in self.applied}

    @property
    def vectors(self) -> set[str]:
        """`sha256:...` of every vector file in use."""
        return {term.sha256 for term in self.applied} | {gate.sha256 for gate in self._gates}

    @property
    def _gates(self) -> list[ResolvedGate]:
        return [term.when for term in self.applied if term.when is not None]


@dataclass(frozen=True)
class Resolver:
    """Resolves steering against one model and one registry.

    Args:
        lookup: A registered vector by name or hash; raises `UnknownVectorError`.
        n_layers: Layers of the served model.
        d_model: Width of its residual stream.
        residual_norms: `(n_layers,)` its residual norms, which scale inline vectors.
        operations: Operations that the engine has.
        hook_points: Places in a block at which the engine steers and reads.
        terms_per_layer: Terms of one request on one layer.
        max_relative_dose: Largest sum of relative doses of one request on one layer.
        max_total_dose: Largest such sum over all layers; None leaves it to the layers' limits.
    """

    lookup: Callable[[str], RegisteredVector]
    n_layers: int
    d_model: int
    residual_norms: Sequence[float]
    operations: Sequence[Operation]
    terms_per_layer: int
    max_relative_dose: float
    max_total_dose: float | None = None
    hook_points: Sequence[HookPoint] = (RESID_POST,)

    def resolve(self, steering: Steering) -> ResolvedSteering:
        """Resolve every term on each of its layers.

        Raises:
            InvalidRequestError: A value is outside its range; names the value, the range and the field.
        """
        terms = [
            resolved
            for i, term in enumerate(steering.terms)
            for resolved in self.resolve_term(term, f"steering.terms[{i}]")
        ]
        self.check_layers(terms)
        return ResolvedSteering(tuple(terms))

    def resolve_term(self, term: SteeringTerm, where: str) -> list[ResolvedTerm]:
        """Resolve one term on each of its layers; `where` is the field that holds it.

        Raises:
            InvalidRequestError: A value is outside its range; names the value, the range and the field.
        """
        self._check_operation(term, where)
        vectors = self._given(term, where)
        at = self.common_hook_point(term.at, vectors, f"{where}.at")
        layers = self._common_layers(term, vectors, where)
        gate = None if term.when is None else self._gate(term.when, layers, at, f"{where}.when")
        return [
            _resolved(term, vector, layer, at, gate, where)
            for layer in layers
            for vector in orthonormal(vectors, layer, f"{where}.vector")
        ]

    def _gate(self, gate: Gate, steered: Sequence[int], at: HookPoint, where: str) -> ResolvedGate:
        """A term's gate, which must be read before any layer that it steers."""
        vector = self._one_vector(gate.vector, f"{where}.vector")
        self.common_hook_point(RESID_POST, [vector], f"{where}.vector")
        (layer,) = self.layers(None if gate.layer is None else [gate.layer], vector, f"{where}.layer")
        last = last_gate_layer(min(steered), at, gate.hold)
        if layer > last:
            raise InvalidRequestError(
                f"the gate's layer {layer} is too late for {at} of layer {min(steered)}: with hold {gate.hold!r} what it decides is "
                f"not known there yet. Allowed: {f'0..{last}' if last >= 0 else 'none'}",
                param=f"{where}.layer",
            )
        return resolved_gate(gate, vector, layer, where)

    def _given(self, term: SteeringTerm, where: str) -> list[GivenVector]:
        """The vectors of a term: one, or those that span a subspace."""
        if not isinstance(term.vector, list):
            return [self._one_vector(term.vector, f"{where}.vector")]
        if term.operation != "ablate":
            raise InvalidRequestError(
                f"a list of vectors is a subspace, which goes with the operation ablate, not with {term.operation}: write a "
                "term for each vector",
                param=f"{where}.vector",
            )
        return [self._one_vector(vector, f"{where}.vector[{i}]") for i, vector in enumerate(term.vector)]

    def _one_vector(self, vector: str | InlineVector, where: str) -> GivenVector:
        if isinstance(vector, str):
            return GivenVector.registered(self.vector(vector, where))
        try:
            return GivenVector.inline(vector, self.d_model, self.residual_norms)
        except VectorFileError as error:
            raise InvalidRequestError(str(error), param=f"{where}.inline") from error

    def _common_layers(self, term: SteeringTerm, vectors: Sequence[GivenVector], where: str) -> list[int]:
        """The layers asked for, which every vector has; or the one that all of them choose."""
        each = [self.layers(term.layers, vector, f"{where}.layers") for vector in vectors]
        if any(layers != each[0] for layers in each):
            chosen = ", ".join(f"{vector.name!r} {layers[0]}" for vector, layers in zip(vectors, each, strict=True))
            raise InvalidRequestError(
                f"the vectors choose different layers ({chosen}): give layers", param=f"{where}.layers"
            )
        return each[0]

    def common_hook_point(self, asked: HookPoint | None, vectors: Sequence[GivenVector], where: str) -> HookPoint:
        """The place that all vectors are for; `where` is the field that names it.

        Raises:
            InvalidRequestError: A vector is for another place than the one asked for, two are for different ones, or the engine
                does not have it.
        """
        own: list[tuple[str, HookPoint]] = [
            (each.name, each.hook_point) for each in vectors if each.hook_point is not None
        ]
        at = asked if asked is not None else ([point for _, point in own] or [RESID_POST])[0]
        for name, point in own:
            if point != at:
                raise InvalidRequestError(
                    f"the vector {name!r} is for {point}, and {at} is {'asked for' if asked else 'that of the one before it'}: leave "
                    f"`at` out, or extract a vector at {at}",
                    param=where,
                )
        if at not in self.hook_points:
            raise InvalidRequestError(missing(at), param=where)
        return at

    def vector(self, name: str, where: str) -> RegisteredVector:
        """A registered vector; `where` is the field that names it.

        Raises:
            UnknownVectorError: It is not registered.
        """
        try:
            return self.lookup(name)
        except UnknownVectorError as error:
            raise UnknownVectorError(str(error), param=where) from None

    def layers(self, asked: list[int] | None, vector: Layered, where: str) -> list[int]:
        """The layers asked for, or the vector's own choice; `where` is the field that names them.

        Raises:
            InvalidRequestError: A layer that the model or the vector does not have, a layer named twice, or no layer where the
                vector chooses none.
        """
        if asked is None and vector.chosen_layer is None:
            raise InvalidRequestError(
                f"an inline vector has no layer of its own: give layers, such as [{self.n_layers // 2}] (0..{self.n_layers - 1})",
                param=where,
            )
        layers = [vector.chosen_layer] if asked is None and vector.chosen_layer is not None else asked or []
        for layer in layers:
            if not 0 <= layer < self.n_layers:
                raise InvalidRequestError(f"layer {layer} is out of range: 0..{self.n_layers - 1}", param=where)
            if layer not in vector.directions:
                raise InvalidRequestError(
                    f"layer {layer} is not in vector {vector.name!r}: its file has the layers "
                    f"{layer_ranges(vector.directions)} (chosen: {vector.chosen_layer})",
                    param=where,
                )
        if len(set(layers)) < len(layers):
            raise InvalidRequestError(f"layers {layers[:32]} name a layer twice", param=where)
        return layers

    def _check_operation(self, term: SteeringTerm, where: str) -> None:
        if term.operation not in self.operations:
            raise InvalidRequestError(
                f"operation {term.operation!r} is not available in this version; available: "
                f"{', '.join(self.operations)}",
                param=f"{where}.operation",
            )

    def check_layers(self, applied: Sequence[AppliedTerm]) -> None:
        """Refuse more terms, or a larger dose, than a layer may have, and more gates than a request may have.

        Raises:
            InvalidRequestError: Names the layer, the number and the limit.
        """
        check_gates(applied)
        by_layer: dict[int, list[AppliedTerm]] = defaultdict(list)
        for term in applied:
            by_layer[term.layer].append(term)
        for (layer, at), n in Counter((term.layer, term.at) for term in applied).items():
            if n > self.terms_per_layer:
                where = f"layer {layer}" if at == RESID_POST else f"{at} of layer {layer}"
                raise InvalidRequestError(
                    f"{n} terms act on {where}; at most {self.terms_per_layer} (--terms-per-layer)",
                    param="steering.terms",
                )
        for layer, terms in by_layer.items():
            dose = math.fsum(term.relative_dose for term in terms)
            if dose > self.max_relative_dose:
                raise InvalidRequestError(
                    f"the relative dose on layer {layer} is {dose:.4g} (|a| / residual_norm, summed over "
                    f"{len(terms)} term(s)); allowed: at most {self.max_relative_dose:g}. Lower the coefficient",
                    param="steering.terms",
                )
        total = math.fsum(term.relative_dose for term in applied)
        if self.max_total_dose is not None and total > self.max_total_dose:
            raise InvalidRequestError(
                f"the relative doses of all layers add up to {total:.4g}; allowed: at most {self.max_total_dose:g}. Lower "
                "the coefficient, or steer fewer layers",
                param="steering.terms",
            )


def _resolved(
    term: SteeringTerm, vector: GivenVector, layer: int, at: HookPoint, gate: ResolvedGate | None, where: str
) -> ResolvedTerm:
    reported = {name: value for name, value in term if name in AppliedTerm.model_fields}
    direction, raw = vector.directions[layer]
    if term.unit == "separation" and not vector.has_separation and term.operation not in UNITLESS:
        raise InvalidRequestError(
            "an inline vector has no separation, since nothing is known of its examples: use the unit dose or raw",
            param=f"{where}.unit",
        )
    a, dose = _value(term, vector.name, vector.evidence[layer], layer, f"{where}.coefficient")
    found = {
        "vector": vector.name,
        "sha256": vector.sha256,
        "layer": layer,
        "at": at,
        "a": a,
        "relative_dose": dose,
        "when": gate,
    }
    return ResolvedTerm(**reported | found, asked=term, direction=direction, raw=raw)


def _value(term: SteeringTerm, vector: str, evidence: LayerEvidence, layer: int, where: str) -> tuple[float, float]:
    """The operation's number in residual units (the factor of `scale`, the angle of `rotate`), and its relative dose."""
    if term.operation in UNITLESS:
        value = _unitless(term, where)
        return value, relative_dose(term.operation, value, evidence.residual_norm)
    if evidence.residual_norm <= 0:
        raise InvalidRequestError(
            f"vector {vector!r} states a residual norm of {evidence.residual_norm} on layer {layer}; it must be above 0",
            param=where,
        )
    value = residual_units(term.coefficient, term.unit, evidence)
    if not math.isfinite(value) or abs(value) > float(np.finfo(np.float32).max):
        raise InvalidRequestError(
            f"coefficient {term.coefficient} {term.unit} is not a finite float32 number", param=where
        )
    if term.coefficient != 0 and np.float32(value) == 0:
        raise InvalidRequestError(
            f"coefficient {term.coefficient} {term.unit} comes to a = {value} on layer {layer}, which is 0 in "
            f"float32 (separation there: {evidence.separation}, residual norm: {evidence.residual_norm})",
            param=where,
        )
    return value, relative_dose(term.operation, value, evidence.residual_norm)


def _unitless(term: SteeringTerm, where: str) -> float:
    """The factor of `scale`, the angle of `rotate`; 0 for `ablate`, which takes no number."""
    if term.operation == "ablate":
        return 0.0
    name, limit = ("angle", MAX_ANGLE) if term.operation == "rotate" else ("factor", MAX_FACTOR)
    if abs(term.coefficient) > limit:
        raise InvalidRequestError(
            f"the {name} of {term.operation} is {term.coefficient:g}; allowed: {-limit:g}..{limit:g}", param=where
        )
    return term.coefficient
