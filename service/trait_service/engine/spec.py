"""One request's spec for the engine: resolved steering and capture, as they travel in `SamplingParams.extra_args`.

One JSON string of direction hashes and numbers under the key `trait_steering`; never a path, never a pickle. The
HTTP side resolves names, units and layers; the worker resolves scopes and pools, since it knows the prompt's length.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, model_validator
from trait_core.errors import InvalidRequestError, SteeringFailedError
from trait_core.intervals import UNBOUNDED, Interval
from trait_core.positions import Positions
from trait_core.schema import (
    MAX_GUESSES,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    RESID_POST,
    FiniteFloat,
    Hold,
    HookPoint,
    NamedScope,
    Operation,
    last_gate_layer,
)

from trait_service.engine.monitor_columns import DIRECTION_PATTERN, MonitorColumn, MonitorColumns
from trait_service.engine.reply_selector import ReplySelector

EXTRA_ARGS_KEY = "trait_steering"
"""Key of `SamplingParams.extra_args`; also the plugin's name and its block in `additional_config`."""

STEERING_FIELDS = ("steering", "capture", "monitor")
"""Fields of our own in the body of a request to vLLM's routes."""


def _read_positions(value: object) -> Positions:
    if isinstance(value, Positions):
        return value
    try:
        return Positions.parse(str(value))
    except InvalidRequestError as error:
        raise ValueError(str(error)) from error


WrittenPositions = Annotated[Positions, PlainValidator(_read_positions), PlainSerializer(str)]
"""Positions that travel in their written form and are parsed when the spec is read."""

CapturePoint = HookPoint | Literal["head_out"]
"""Places at which a request captures."""

FromTo = Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=2, max_length=2)]
"""Absolute positions `[from, to)`."""


def reserved_key_message(field: str) -> str:
    """Text of the error for a request that brings our key itself, in `vllm_xargs` for example."""
    return f"{field}.{EXTRA_ARGS_KEY} is reserved: use the field 'steering'"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class GateSpec(_Strict):
    """The condition of a term: it acts only where a projection is past a bound.

    Attributes:
        layer: Layer whose stream is projected, before any term of that layer acts.
        direction: sha256 (hex) of the direction's float32 bytes: its row in the vector bank.
        above: The projection must be above it, residual units.
        below: The projection must be below it. One of the two is set.
        hold: `token`: each position is decided by its own projection. `latch`: the gate is open from the first position past the
            bound on. `prompt`: the mean over the prompt decides, from the last prompt position on. These two are read below the
            layer that they steer, and the prompt may not come from the prefix cache.
        n_prompt: With `prompt`: where the response begins inside a given text; None: the request's own prompt length.
    """

    layer: Annotated[int, Field(ge=0, lt=MAX_LAYERS)]
    direction: Annotated[str, Field(pattern=DIRECTION_PATTERN)]
    above: FiniteFloat | None = None
    below: FiniteFloat | None = None
    hold: Hold = "token"
    n_prompt: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _has_one_bound(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError("a gate needs above or below, and not both")
        return self

    @property
    def bound(self) -> float:
        """The bound, residual units."""
        bound = self.below if self.above is None else self.above
        assert bound is not None, "checked above"
        return bound


class TermSpec(_Strict):
    """One direction on one layer.

    Attributes:
        at: The hook point whose tensor is changed.
        direction: sha256 (hex) of the direction's float32 bytes: its row in the vector bank.
        value: The operation's number, in residual units: `add`: a; `set`: the projection's new value; `scale`: the
            factor; `floor`, `ceiling`: the limit; `replace`: the stream's new length. `rotate`: degrees. `ablate` ignores it.
        scope: A name, absolute positions `[from, to)`, or a selector (`trait_core.positions`).
        reply: Positions of the reply at which it acts beside those of its scope, as the reply's own tokens decide; None: none.
        when: Condition under which it acts at a position of its scope; None: always.
    """

    layer: Annotated[int, Field(ge=0, lt=MAX_LAYERS)]
    at: HookPoint = RESID_POST
    direction: Annotated[str, Field(pattern=DIRECTION_PATTERN)]
    operation: Operation = "add"
    value: FiniteFloat = 0.0
    scope: NamedScope | FromTo | WrittenPositions = "all"
    preserve_norm: bool = False
    reply: ReplySelector | None = None
    when: GateSpec | None = None

    @model_validator(mode="after")
    def _is_read_in_time(self) -> Self:
        if self.when is not None and self.when.layer > last_gate_layer(self.layer, self.at, self.when.hold):
            raise ValueError(
                f"a gate with hold {self.when.hold!r} on layer {self.when.layer} is too late for {self.at} of layer {self.layer}"
            )
        return self

    def intervals(self, n_prompt: int) -> list[Interval]:
        """Absolute positions of its scope, disjoint; `n_prompt` is the request's own prompt length.

        `generated` starts at the last prompt position, since that one produces the first generated token.

        Raises:
            InvalidRequestError: The scope counts from the end of a reply that is still being generated.
        """
        match self.scope:
            case "all":
                return [Interval(0, UNBOUNDED)]
            case "prompt":
                return [Interval(0, n_prompt)]
            case "generated":
                return [Interval(n_prompt - 1, UNBOUNDED)]
            case "last_prompt":
                return [Interval(n_prompt - 1, n_prompt)]
            case Positions():
                return self.scope.intervals(n_prompt, None)
            case [start, stop]:
                return [Interval(start, stop)]
        raise SteeringFailedError(f"unknown scope {self.scope!r}")


class CaptureSpec(_Strict):
    """Activations to keep for one request: pooled after steering, or every position.

    Attributes:
        each: Keep the stream of every position, of one entry of `positions`; else for each entry the mean over it.
        before_steering: With `each`: as the block put it out.
        positions: Written positions (`trait_core.positions`), each a pool; at most the engine's `pools`.
        layers: Layers to keep; None keeps all.
        at: The hook point whose tensor is kept; `head_out`: the attention heads.
        head: With `head_out`: one of them; None keeps all.
        n_prompt: Where the response begins inside a given text; None: the request's own prompt length.
        n_total: Length of a given text; None while it is being generated.
    """

    positions: Annotated[list[WrittenPositions], Field(min_length=1, max_length=MAX_POSITIONS)]
    layers: list[Annotated[int, Field(ge=0, lt=MAX_LAYERS)]] | None = None
    at: CapturePoint = RESID_POST
    head: Annotated[int, Field(ge=0, lt=MAX_HEADS)] | None = None
    n_prompt: Annotated[int, Field(ge=0)] | None = None
    n_total: Annotated[int, Field(ge=1)] | None = None
    each: bool = False
    before_steering: bool = False

    def intervals(self, n_prompt: int) -> list[list[Interval]]:
        """Absolute positions of each pool, disjoint, given the request's own prompt length."""
        first = n_prompt if self.n_prompt is None else self.n_prompt
        return [positions.intervals(first, self.n_total) for positions in self.positions]


def _read_columns(value: MonitorColumns | Sequence[MonitorColumn] | str) -> MonitorColumns:
    if isinstance(value, MonitorColumns):
        return value
    return MonitorColumns.read(value) if isinstance(value, str) else MonitorColumns.of(value)


def _text(columns: MonitorColumns) -> str:
    return columns.text


WrittenColumns = Annotated[MonitorColumns, PlainValidator(_read_columns), PlainSerializer(_text)]
"""Monitored directions that travel as text inside the spec's: it is read once for all requests that share it."""


class MonitorSpec(_Strict):
    """Projections to keep: `(n_positions, n_columns)` float32, of every position from the first one on.

    Attributes:
        prompt: The first one is 0, and the prompt may not come from the prefix cache; else it is the last prompt
            position, which produces the first generated token.
    """

    prompt: bool = True
    columns: WrittenColumns

    @property
    def has_bounds(self) -> bool:
        """True if any direction has a bound."""
        return len(self.columns.bounded) > 0


class LensSpec(_Strict):
    """A reading of some layers through the model's norm and head, at each position that produces a generated token.

    Attributes:
        layers: Layers whose output is read after steering, each once.
        top_k: Tokens of each.
    """

    layers: Annotated[list[Annotated[int, Field(ge=0, lt=MAX_LAYERS)]], Field(min_length=1, max_length=MAX_LAYERS)]
    top_k: Annotated[int, Field(ge=1, le=MAX_GUESSES)]


class RequestSpec(_Strict):
    """One request's steering, capture and monitoring.

    Attributes:
        key: Chosen by the sender, unique among live requests: reports, captures and projections are fetched by it.
        n: Completions of the prompt: the engine runs each as a separate request, all under this key.
    """

    key: Annotated[str, Field(min_length=1, max_length=128)]
    n: Annotated[int, Field(ge=1)] = 1
    terms: list[TermSpec] = []
    capture: CaptureSpec | None = None
    monitor: MonitorSpec | None = None
    lens: LensSpec | None = None

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.terms and self.capture is None and self.monitor is None and self.lens is None:
            raise ValueError("a request spec needs terms, a capture, a monitor or a lens")
        if self.capture is not None and self.lens is not None:
            raise ValueError("a request has a capture or a lens, not both: a lens takes the place of a pool")
        return self

    @classmethod
    def from_extra_args(cls, extra_args: dict[str, object] | None) -> Self | None:
        """The spec inside `SamplingParams.extra_args`; None if there is no spec.

        Raises:
            SteeringFailedError: The entry exists and is not a valid spec.
        """
        if not extra_args or EXTRA_ARGS_KEY not in extra_args:
            return None
        text = extra_args[EXTRA_ARGS_KEY]
        if not isinstance(text, str):
            raise SteeringFailedError(f"{EXTRA_ARGS_KEY} holds a {type(text).__name__}, not a JSON string")
        try:
            return cls._parsed(text)
        except ValueError as error:
            raise SteeringFailedError(f"{EXTRA_ARGS_KEY} is not a valid request spec: {error}") from error

    @classmethod
    @lru_cache(maxsize=2048)
    def _parsed(cls, text: str) -> Self:
        """Scheduler and worker read the same text, in one process if there is one worker."""
        return cls.model_validate_json(text)

    def to_extra_args(self) -> dict[str, str]:
        """The entry for `SamplingParams.extra_args`."""
        return {EXTRA_ARGS_KEY: self.model_dump_json()}


@dataclass(frozen=True)
class BoundHit:
    """The first bound that a completion crossed.

    Args:
        completion: Index of the completion.
        column: Index of the monitored direction.
        position: Absolute position; the token that it produced is the one after it.
        value: The projection there.
        stop: The bound ended the request.
    """

    completion: int
    column: int
    position: int
    value: float
    stop: bool


@dataclass(frozen=True)
class RequestReport:
    """The worker's report of one request.

    Args:
        n_prompt: The request's own prompt length.
        steered_prompt: Prompt positions at which at least one term acted, cached ones included.
        steered_generated: Generated positions at which at least one term acted.
        steered_cached: How many of `steered_prompt` were read from the prefix cache.
        acted: For each term of the spec, the prompt positions and the generated positions at which it acted. What a gate
            decided at a cached position is not known: such positions are left out.
        error: Reason why the request could not be steered as asked; its text is then empty.
        bound_hits: The first bound of its monitor that each completion crossed, if any.
    """

    key: str
    n_prompt: int = 0
    steered_prompt: int = 0
    steered_generated: int = 0
    steered_cached: int = 0
    acted: tuple[tuple[int, int], ...] = ()
    error: str | None = None
    bound_hits: tuple[BoundHit, ...] = ()

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """From `dataclasses.asdict`, as it travels."""
        hits = tuple(BoundHit(**hit) for hit in fields["bound_hits"])
        acted = tuple((prompt, generated) for prompt, generated in fields["acted"])
        return cls(**{**fields, "bound_hits": hits, "acted": acted})

    def plus(self, other: Self) -> Self:
        """The report of both: of requests that share a key (`n > 1`)."""
        return replace(
            self,
            steered_prompt=self.steered_prompt + other.steered_prompt,
            steered_generated=self.steered_generated + other.steered_generated,
            steered_cached=self.steered_cached + other.steered_cached,
            acted=tuple((a + c, b + d) for (a, b), (c, d) in zip(self.acted, other.acted, strict=False)),
            error=self.error or other.error,
            bound_hits=self.bound_hits + other.bound_hits,
        )
