"""`monitor` of a request, and the projections in its response."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trait_core.schema.base import MAX_LAYERS, FiniteFloat, Layer, Request, Response, VectorReference

MAX_MONITORED = 32
"""Vectors times layers of one request."""


class MonitorBound(Request):
    """A bound on the projections of generated tokens.

    Attributes:
        vector: One of the monitor's vectors, written as there.
        layer: One of its layers; None: every layer that is monitored.
        above: Crossed by a projection above it, in the unit in which the projections are answered.
        below: Crossed by a projection below it.
        action: `stop` ends the reply before the token that the crossing position would have produced; `mark` only says
            so.
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
    """Projections of a request's tokens on vectors, after steering.

    Attributes:
        vectors: Registered names, or `sha256:...`.
        layers: 0-based decoder blocks whose output is projected; None takes each vector file's chosen layer.
        centred: Take off the vector's centre, the midpoint of its two training classes: 0 lies between them.
        cosine: Divide by the norm of the stream (without a centre): -1..1, whatever the layer's norm.
        prompt: Project the prompt too. Its positions are then computed, not read from the prefix cache.
        tokens: Answer the text of each token too.
        bounds: Hold from the position that produces the first generated token; the first one crossed is reported.
    """

    vectors: Annotated[list[VectorReference], Field(min_length=1, max_length=MAX_MONITORED)]
    layers: Annotated[list[Layer], Field(min_length=1, max_length=MAX_LAYERS)] | None = None
    centred: bool = True
    cosine: bool = False
    prompt: bool = True
    tokens: bool = False
    bounds: Annotated[list[MonitorBound], Field(max_length=MAX_MONITORED, default_factory=list)]


class MonitoredDirection(Response):
    """One column of the projections.

    Attributes:
        centre: What was taken off, residual units; 0 where nothing was.
    """

    vector: str
    sha256: str
    layer: int
    centre: float


class CrossedBound(Response):
    """The first bound that a reply crossed.

    Attributes:
        token: Index of the generated token that the crossing position produced; a `stop` puts the end in its place.
        position: Absolute index of the crossing position, that of the token before it.
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
    """Projections of one reply; in a stream, those that are new with the chunk.

    Attributes:
        index: As in the response's choices.
        prompt: `[n_prompt][n_directions]`: row i belongs to prompt position i.
        generated: `[n_generated][n_directions]`: row j belongs to the position that produced generated token j, which is
            absolute position `n_prompt - 1 + j`: the token before it went in there. As many rows as tokens.
        prompt_tokens: With `tokens`: the text of each prompt token. Joined they are the prompt: a token that ends amid a
            character is "", and the one that completes it has the whole.
        generated_tokens: With `tokens`: the same of the reply, special tokens included.
        crossed: None where no bound was crossed.
    """

    index: int
    prompt: list[list[float]] = Field(default_factory=list)
    generated: list[list[float]] = Field(default_factory=list)
    prompt_tokens: list[str] | None = None
    generated_tokens: list[str] | None = None
    crossed: CrossedBound | None = None


class MonitorReport(Response):
    """The `monitor` block of a response; in a stream, of each chunk.

    Attributes:
        directions: The columns.
        choices: One for each reply; of one prompt's replies the first carries the prompt.
    """

    directions: list[MonitoredDirection]
    choices: list[MonitoredChoice]
