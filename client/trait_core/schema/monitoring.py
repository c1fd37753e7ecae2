"""`monitor` of a request, and the projections in its response."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trait_core.schema.base import (
    MAX_LAYERS,
    RESID_POST,
    FiniteFloat,
    HookPoint,
    Layer,
    Request,
    Response,
    VectorReference,
)
from trait_core.schema.lens import LensGuess, StreamLens
from trait_core.schema.steering import Selector

MAX_MONITORED = 512
"""Maximum of vectors times layers in one request."""


class MonitorBound(Request):
    """A bound on the projections of generated tokens.

    Attributes:
        vector: One of the monitor's vectors, written the same way.
        layer: One of the monitored layers; None: all of them.
        above: Upper bound, in the unit of the reported projections.
        below: Lower bound.
        action: `stop` ends the reply before the token that the crossing position would have produced; `mark` only
            reports the crossing.
    """

    vector: VectorReference
    layer: Layer | None = None
    above: FiniteFloat | None = None
    below: FiniteFloat | None = None
    action: Literal["stop", "mark"] = "stop"

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.above is None and self.below is None:
            raise ValueError("a bound needs above or below")
        if self.above is not None and self.below is not None and self.below > self.above:
            raise ValueError(f"no projection lies between below {self.below} and above {self.above}")
        return self


class Monitor(Request):
    """Projections of a request's tokens on vectors, and what the model would say from its layers; both after steering.

    Attributes:
        vectors: Registered names, or `sha256:...`; may be left out with a lens.
        lens: The layers from which the reply says what the model would say, token by token; None: none.
        layers: 0-based decoder blocks whose output is projected; None takes each vector file's chosen layer.
        at: The place in these blocks: `resid_post`, `attn_out` or `mlp_out`; None: each vector file's own.
        centred: Subtract the vector's centre, the midpoint of its two training classes, so that 0 separates them.
        cosine: Divide by the norm of the stream, or of what is read in its place, without subtracting the centre: -1..1 at any layer norm.
        prompt: Also project the prompt, on the vectors. Its positions are then computed instead of read from the prefix cache.
        positions: Positions whose projections, and tokens of the lens, are returned (`trait_core.positions`), for example `response[::8]`; None: all.
            Bounds are checked at every position all the same.
        tokens: Also return the text of each token.
        bounds: Bounds from the position that produces the first generated token on; the first crossing is reported.
    """

    vectors: Annotated[list[VectorReference], Field(max_length=MAX_MONITORED)] = Field(default_factory=list)
    lens: StreamLens | None = None
    layers: Annotated[list[Layer], Field(min_length=1, max_length=MAX_LAYERS)] | None = None
    at: HookPoint | None = None
    centred: bool = True
    cosine: bool = False
    prompt: bool = True
    positions: Selector | None = None
    tokens: bool = False
    bounds: Annotated[list[MonitorBound], Field(max_length=MAX_MONITORED, default_factory=list)]

    @model_validator(mode="after")
    def _reads_something(self) -> Self:
        if not self.vectors and self.lens is None:
            raise ValueError("a monitor needs vectors, a lens, or both")
        return self


class MonitoredDirection(Response):
    """One column of the projections.

    Attributes:
        centre: The subtracted centre, residual units; 0 if none was.
    """

    vector: str
    sha256: str
    layer: int
    at: HookPoint = RESID_POST
    centre: float


class CrossedBound(Response):
    """The first bound that a reply crossed.

    Attributes:
        token: Index of the generated token that the crossing position produced; with `stop` the reply ends there.
        position: Absolute index of the crossing position, which is that of the preceding token.
        value: The projection there.
    """

    vector: str
    layer: int
    token: int
    position: int
    value: float
    above: float | None
    below: float | None
    action: Literal["stop", "mark"]


class MonitoredChoice(Response):
    """Projections of one reply; in a stream, only the new ones.

    Attributes:
        index: Index among the response's choices.
        prompt: `[n_prompt][n_directions]`: row i belongs to prompt position i. Seven significant digits.
        generated: `[n_generated][n_directions]`: row j belongs to the position that produced generated token j, which is
            absolute position `n_prompt - 1 + j`, where the preceding token is the input. One row per token.
        prompt_tokens: With `tokens`: the text of each prompt token; joined they are the prompt. A token that ends inside
            a character is "", and the token that completes the character holds all of it.
        generated_tokens: With `tokens`: the same for the reply, including special tokens.
        prompt_positions: With `positions`: absolute position of each row of `prompt`; rows and texts of others are left out.
        generated_positions: With `positions`: the same for `generated`.
        lens: With a lens, `[n_generated][n_layers][top_k]`: entry j belongs to the position that produced generated token j, as row
            j of `generated`; the likeliest token first.
        crossed: None if no bound was crossed.
    """

    index: int
    prompt: list[list[float]] = Field(default_factory=list)
    generated: list[list[float]] = Field(default_factory=list)
    prompt_tokens: list[str] | None = None
    generated_tokens: list[str] | None = None
    prompt_positions: list[int] | None = None
    generated_positions: list[int] | None = None
    lens: list[list[list[LensGuess]]] | None = None
    crossed: CrossedBound | None = None


class MonitorReport(Response):
    """The `monitor` block of a response, or of each chunk of a stream.

    Attributes:
        directions: The columns. In a stream, the first chunk with projections has them; those after it leave the list empty.
        lens_layers: The layers of the lens, in the order of its entries; in a stream, as `directions`.
        choices: One for each reply; the prompt's projections are in the first reply to it.
    """

    directions: list[MonitoredDirection]
    lens_layers: list[int] = Field(default_factory=list)
    choices: list[MonitoredChoice]
