"""Compares the steering and monitoring of a request with the report in its answer."""

import math
from typing import NamedTuple

from trait_core.errors import SteeringFailedError
from trait_core.schema import (
    SHA256_PREFIX,
    AppliedGate,
    Gate,
    InlineVector,
    Monitor,
    MonitorReport,
    Steering,
    SteeringReport,
    SteeringTerm,
)


class Expected(NamedTuple):
    """The steering and monitoring of a request, which its answer must report."""

    steering: Steering | None = None
    monitor: Monitor | None = None

    def check_against(self, steering: SteeringReport | None, monitor: MonitorReport | None) -> None:
        """Check that the reports exist, and that the applied terms are the requested ones.

        Raises:
            SteeringFailedError: A report is missing, or names another file, layer or coefficient.
        """
        missing = [
            name
            for name, asked, report in (("steering", self.steering, steering), ("monitoring", self.monitor, monitor))
            if asked is not None and report is None
        ]
        if missing:
            raise SteeringFailedError(
                f"{missing[0]} was asked for and the answer does not report any: the text is discarded as unsteered. "
                "Is the server a trait-service (GET /v1/steering)?"
            )
        if self.steering is not None and steering is not None:
            _check_terms(self.steering, steering)


def _check_terms(asked: Steering, report: SteeringReport) -> None:
    """Compare term by term and layer by layer; a model alias puts its own terms before the requested ones."""
    unnamed: list[int | None] = [None]
    expected = [
        (term, vector, layer) for term in asked.terms for layer in term.layers or unnamed for vector in _vectors(term)
    ]
    applied = report.applied[-len(expected) :]
    if len(applied) < len(expected):
        raise SteeringFailedError(
            f"{len(expected)} steering terms were asked for and {len(applied)} applied: the text is discarded"
        )
    for (term, vector, layer), got in zip(expected, applied, strict=True):
        _check_equal("operation", term.operation, got.operation)
        _check_equal("unit", term.unit, got.unit)
        if isinstance(vector, str) and vector.startswith(SHA256_PREFIX):
            _check_equal("vector", vector, got.sha256)
        if layer is not None:
            _check_equal("layer", layer, got.layer)
        # An answer that does not name the place comes from a service that has one only.
        if term.at is not None:
            _check_equal("hook point", term.at, got.at)
        # Not bit-equal: vllm-router rewrites a request's JSON, which changes the last bit of one number in ten.
        if not math.isclose(term.coefficient, got.coefficient, rel_tol=1e-9):
            _check_equal("coefficient", term.coefficient, got.coefficient)
        _check_gate(term.when, got.when)


def _check_gate(asked: Gate | None, applied: AppliedGate | None) -> None:
    """Compare a term's condition with the reported one."""
    if asked is None or applied is None:
        _check_equal("a condition (when)", asked is not None, applied is not None)
        return
    bounds = [(gate.above, gate.below) for gate in (asked, applied)]
    (above, below), (got_above, got_below) = bounds
    side, value, got = ("above", above, got_above) if above is not None else ("below", below, got_below)
    if value is None or got is None or not math.isclose(value, got, rel_tol=1e-9):
        _check_equal(f"when.{side}", str(value), str(got))
    _check_equal("when.hold", asked.hold, applied.hold)
    if asked.layer is not None:
        _check_equal("when.layer", asked.layer, applied.layer)


def _vectors(term: SteeringTerm) -> list[str | InlineVector]:
    """The vectors of a term, each of which is reported on each layer."""
    return term.vector if isinstance(term.vector, list) else [term.vector]


def _check_equal(what: str, asked: str | float, applied: str | float) -> None:
    if asked != applied:
        raise SteeringFailedError(
            f"{what} {asked!r} was asked for and {applied!r} applied: the text is discarded. Does every replica behind "
            "this address have the same vectors?"
        )
