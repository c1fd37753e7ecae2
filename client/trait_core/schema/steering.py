"""`steering` of a request, and the report in its response."""

from typing import Annotated, Any, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from trait_core.errors import InvalidRequestError
from trait_core.positions import MAX_SELECTOR, Positions
from trait_core.schema.base import (
    MAX_LAYERS,
    MAX_TERMS,
    RESID_POST,
    FiniteFloat,
    HookPoint,
    Layer,
    NamedScope,
    Operation,
    Request,
    Response,
    Unit,
)
from trait_core.schema.gates import ActedPositions, AppliedGate, Gate
from trait_core.schema.given import SteeringVector


class PositionScope(Request):
    """Absolute token positions `[from, to)`, counted from the first prompt token."""

    positions: Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=2, max_length=2)]

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        start, stop = self.positions
        if start >= stop:
            raise ValueError(f"positions [{start}, {stop}) are empty: the first must be below the second")
        return self


def _written(value: Any) -> Any:
    """A selector in its one written form; names and absolute positions are left as they are."""
    if (
        value in get_args(NamedScope)
        or isinstance(value, PositionScope)
        or (isinstance(value, dict) and "positions" in value)
    ):
        return value
    try:
        return str(Positions.of(value))
    except InvalidRequestError as error:
        raise ValueError(f"not one of {', '.join(get_args(NamedScope))}, and no selector: {error}") from error


def _selector(value: Any) -> str:
    """As `_written`, where no name is a selector."""
    try:
        return str(Positions.of(value))
    except InvalidRequestError as error:
        raise ValueError(str(error)) from error


def _single(value: Any) -> Any:
    """As `_written`, where a list has another meaning."""
    return value if isinstance(value, list) else _written(value)


WrittenSelector = Annotated[str, Field(max_length=MAX_SELECTOR)]
"""Token positions as `trait_core.positions` writes them, for example `prompt[-4:], response[:8]`."""

Selector = Annotated[
    WrittenSelector,
    BeforeValidator(_selector, json_schema_input_type=WrittenSelector | list[str] | dict[str, str | list[str]]),
]
"""A selector: its text, a list of them (their union), or `{"select", "except"}`."""

SingleScope = Annotated[
    NamedScope | PositionScope | WrittenSelector,
    BeforeValidator(
        _single, json_schema_input_type=NamedScope | PositionScope | WrittenSelector | dict[str, str | list[str]]
    ),
]
"""A scope that is not a list, for places where a list has another meaning."""

Scope = Annotated[
    NamedScope | PositionScope | WrittenSelector,
    BeforeValidator(
        _written,
        json_schema_input_type=NamedScope | PositionScope | WrittenSelector | list[str] | dict[str, str | list[str]],
    ),
]
"""A name, absolute positions, or a selector: its text, a list of them (their union), or `{"select", "except"}`."""


class SteeringTerm(Request):
    """One vector at one coefficient on one or more layers.

    Attributes:
        vector: A registered name, `sha256:...` of a vector file, or an inline vector. For `ablate` also a list of up to 16 of
            them, which span a subspace: the projection on it becomes 0.
        coefficient: Signed number in `unit`. Without a unit: `scale`, the factor, -10..10; `rotate`, the angle in degrees,
            -180..180. `ablate` ignores it.
        unit: `dose`: a = coefficient * residual_norm / 10. `separation`: a = coefficient * separation.
            `raw`: a = coefficient, in residual units.
        at: The place in these blocks: `resid_post` (the stream behind the block), `attn_out` (what its attention adds to the
            stream), `mlp_out` (what its MLP or experts add). None: the vector file's own; an inline vector's is `resid_post`. The
            units refer to the stream at each place.
        layers: 0-based decoder blocks whose output is changed; None: the vector file's chosen layer. An inline vector has none:
            with it, layers are required.
        operation: `add` (activation addition), `ablate` (the projection becomes 0), `set` (becomes the value), `scale`
            (is multiplied by the factor), `floor` and `ceiling` (stays at or above, at or below the limit). Two change the
            whole stream: `replace` (activation patching: it becomes a times the direction) and `rotate` (angular steering: it is
            turned towards the direction by the angle and keeps its norm; parallel to the direction it stays as it is).
        scope: Token positions that are steered: a name, `{"positions": [from, to]}`, or a selector such as `prompt[-4:]` or
            `response[8::4]` (a list is their union; `{"select": [...], "except": [...]}` takes positions out). `generated`
            includes the last prompt position, which produces the first generated token; `response[:]` begins at that token.
        preserve_norm: Rescale the residual stream to its norm before the change.
        when: Condition: at a position of the scope the term acts only where the gate is open. None: everywhere.
    """

    vector: SteeringVector
    coefficient: FiniteFloat
    unit: Unit = "dose"
    layers: Annotated[list[Layer], Field(min_length=1, max_length=MAX_LAYERS)] | None = None
    at: HookPoint | None = None
    operation: Operation = "add"
    scope: Scope = "all"
    preserve_norm: bool = False
    when: Gate | None = None

    @property
    def reference(self) -> str:
        """The vector's registered name or hash.

        Raises:
            TypeError: The term has an inline vector or a subspace, which have neither.
        """
        if isinstance(self.vector, str):
            return self.vector
        raise TypeError("an inline vector or a subspace has neither a name nor a hash")


class Steering(Request):
    """All steering of a request; terms on one layer apply in the given order."""

    terms: Annotated[list[SteeringTerm], Field(min_length=1, max_length=MAX_TERMS)]


class AppliedTerm(Response):
    """One vector on one layer, as the engine applied it.

    Attributes:
        vector: Its name; `inline` if it came with the request. Of a subspace, each vector after the first has only the part of
            its direction that is orthogonal to those before it.
        sha256: Hash of the vector file; for an inline vector, of its unit direction as float32.
        a: The operation's number, residual units: added along the unit direction (`add`), the projection's value or
            limit (`set`, `floor`, `ceiling`), the stream's new length (`replace`), the factor (`scale`), degrees (`rotate`),
            0 (`ablate`).
        relative_dose: `|a| / residual_norm` of the layer; `rotate`: 2 sin(|angle| / 2); 0 for `ablate` and `scale`.
        when: The condition under which it acts; None: none.
        acted: Positions at which it acted, counted in the worker; None from a service that does not count them.
    """

    vector: str
    sha256: str
    layer: int
    at: HookPoint = RESID_POST
    operation: Operation
    unit: Unit
    coefficient: float
    a: float
    relative_dose: float
    scope: Scope
    when: AppliedGate | None = None
    acted: ActedPositions | None = None


class SteeredPositions(Response):
    """Number of token positions at which at least one term acted, counted in the worker.

    Attributes:
        prompt: Prompt positions, including those read from identically steered cache blocks. Terms with a gate count only where
            the position was computed.
        generated: Generated tokens that were fed to the steered model; the last token of a reply never is.
        cached: Number of `prompt` positions that came from the prefix cache.
    """

    prompt: int
    generated: int
    cached: int = 0


class SteeringReport(Response):
    """The `steering` block of a response."""

    applied: list[AppliedTerm]
    positions: SteeredPositions
