"""What one request asks of the engine: resolved steering and capture, as it travels in `SamplingParams.extra_args`.

One JSON string of direction hashes and numbers under the key `trait_steering`; never a path, never a pickle. The
HTTP side resolves names, units and layers; the worker resolves scopes and pools, since it knows the prompt's length.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from trait_client.errors import SteeringFailedError
from trait_client.positions import Positions
from trait_client.schema import MAX_LAYERS, FiniteFloat, NamedScope, Operation

EXTRA_ARGS_KEY = "trait_steering"
"""Key of `SamplingParams.extra_args`; also the plugin's name and its block in `additional_config`."""

DIRECTION_PATTERN = r"^[0-9a-f]{64}$"

Interval = Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=2, max_length=2)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TermSpec(_Strict):
    """One direction on one layer.

    Attributes:
        direction: sha256 (hex) of the direction's float32 bytes: its row in the vector bank.
        value: The operation's number, in residual units: `add`: a; `set`: the projection's new value; `scale`: the
            factor; `floor`, `ceiling`: the limit. `ablate` ignores it.
        scope: A name, or absolute positions `[from, to)`.
    """

    layer: Annotated[int, Field(ge=0, lt=MAX_LAYERS)]
    direction: Annotated[str, Field(pattern=DIRECTION_PATTERN)]
    operation: Operation = "add"
    value: FiniteFloat = 0.0
    scope: NamedScope | Interval = "all"
    preserve_norm: bool = False


class CaptureSpec(_Strict):
    """Pools to keep for one request: for each, the sum of the residual stream over its positions.

    Attributes:
        positions: Written positions (`trait_client.positions`), each a pool; at most the engine's `pools`.
        layers: Layers to keep; None keeps all.
        n_prompt: Where the response begins inside a given text; None: the request's own prompt length.
        n_total: Length of a given text; None while it is being generated.
    """

    positions: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=8)]
    layers: list[Annotated[int, Field(ge=0, lt=MAX_LAYERS)]] | None = None
    n_prompt: Annotated[int, Field(ge=0)] | None = None
    n_total: Annotated[int, Field(ge=1)] | None = None

    def intervals(self, n_prompt: int) -> list[tuple[int, int]]:
        """Absolute `[start, stop)` of each pool, given the request's own prompt length."""
        first = n_prompt if self.n_prompt is None else self.n_prompt
        return [Positions.parse(text).interval(first, self.n_total) for text in self.positions]


class RequestSpec(_Strict):
    """One request's steering and capture.

    Attributes:
        key: Chosen by the sender, unique among live requests: reports and captures are fetched by it.
    """

    key: Annotated[str, Field(min_length=1, max_length=128)]
    terms: list[TermSpec] = []
    capture: CaptureSpec | None = None

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.terms and self.capture is None:
            raise ValueError("a request spec needs terms or a capture")
        return self

    @classmethod
    def from_extra_args(cls, extra_args: dict[str, object] | None) -> Self | None:
        """The spec inside `SamplingParams.extra_args`; None where there is none.

        Raises:
            SteeringFailedError: The entry is there and is not a valid spec.
        """
        if not extra_args or EXTRA_ARGS_KEY not in extra_args:
            return None
        text = extra_args[EXTRA_ARGS_KEY]
        if not isinstance(text, str):
            raise SteeringFailedError(f"{EXTRA_ARGS_KEY} holds a {type(text).__name__}, not a JSON string")
        try:
            return cls.model_validate_json(text)
        except ValueError as error:
            raise SteeringFailedError(f"{EXTRA_ARGS_KEY} is not a valid request spec: {error}") from error

    def to_extra_args(self) -> dict[str, str]:
        """The entry for `SamplingParams.extra_args`."""
        return {EXTRA_ARGS_KEY: self.model_dump_json()}


@dataclass(frozen=True)
class RequestReport:
    """What the worker did for one request.

    Args:
        n_prompt: The request's own prompt length.
        steered_prompt: Prompt positions that at least one term touched, cached ones included.
        steered_generated: Generated positions that at least one term touched.
        steered_cached: How many of `steered_prompt` were read from the prefix cache.
        error: Why the request could not be steered as asked; its text is then empty.
    """

    key: str
    n_prompt: int = 0
    steered_prompt: int = 0
    steered_generated: int = 0
    steered_cached: int = 0
    error: str | None = None

    def plus(self, other: Self) -> Self:
        """The report of both: of requests that share a key (`n > 1`)."""
        return replace(
            self,
            steered_prompt=self.steered_prompt + other.steered_prompt,
            steered_generated=self.steered_generated + other.steered_generated,
            steered_cached=self.steered_cached + other.steered_cached,
            error=self.error or other.error,
        )
