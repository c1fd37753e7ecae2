"""`when` of a steering term: the condition under which it acts, and its report."""

from typing import Literal, Self

from pydantic import model_validator

from trait_core.schema.base import (
    RESID_POST,
    FiniteFloat,
    Hold,
    HookPoint,
    Layer,
    Request,
    Response,
)
from trait_core.schema.given import OneVector

GateUnit = Literal["raw", "separation"]


def last_gate_layer(layer: int, at: HookPoint, hold: Hold) -> int:
    """The last layer whose output a term's gate may be read at; below 0 if there is none.

    Args:
        layer: The term's layer.
        at: The term's hook point: what a block adds comes before its output.
        hold: `latch` and `prompt` are settled on the layer after the one where they are read.
    """
    return layer - (at != RESID_POST) - (hold != "token")


class Gate(Request):
    """A condition: the term acts only where the stream's projection on a vector is past a bound.

    The projection is read in the same forward pass, before any term of the gate's layer acts.

    Attributes:
        vector: Registered name, `sha256:...`, or an inline vector.
        layer: 0-based decoder block whose output is projected, at or below every layer that the term steers; None takes the
            vector file's chosen layer. An inline vector has none: its layer is required.
        above: The term acts where the projection is above this bound.
        below: The term acts where it is below. Exactly one of the two is given.
        centred: Subtract the vector's centre first, the midpoint of its two training classes, so that 0 separates them. An inline
            vector has no centre: False is required.
        unit: Unit of the bound. `raw`: residual units. `separation`: 1 is the distance of the two training classes, so that
            with the centre subtracted 0.5 is the mean of the positive class; not for an inline vector.
        hold: `token`: each position is decided by its own projection. `latch`: the term acts from the first position past the
            bound on. `prompt`: the mean over the prompt decides for what is generated, from the last prompt position on, which
            produces the first generated token. With these two the gate's layer is below every steered layer, and the prompt is
            computed instead of read from the prefix cache.
    """

    vector: OneVector
    layer: Layer | None = None
    above: FiniteFloat | None = None
    below: FiniteFloat | None = None
    centred: bool = True
    unit: GateUnit = "raw"
    hold: Hold = "token"

    @model_validator(mode="after")
    def _has_one_bound(self) -> Self:
        if self.above is None and self.below is None:
            raise ValueError("a gate needs above or below")
        if self.above is not None and self.below is not None:
            raise ValueError("a gate takes above or below, not both: write a term for each")
        return self

    @property
    def reference(self) -> str:
        """The vector's registered name or hash.

        Raises:
            TypeError: It is an inline vector, which has neither.
        """
        if isinstance(self.vector, str):
            return self.vector
        raise TypeError("an inline vector has neither a name nor a hash")


class AppliedGate(Response):
    """The condition of a term, as the engine applied it.

    Attributes:
        vector: The vector's name; `inline` if it came with the request.
        sha256: Hash of the vector file; for an inline vector, of its unit direction as float32.
        bound: `above` or `below` in residual units, with the centre added: the projection itself is compared with it.
    """

    vector: str
    sha256: str
    layer: int
    above: float | None = None
    below: float | None = None
    centred: bool
    unit: GateUnit
    hold: Hold
    bound: float


class ActedPositions(Response):
    """Number of token positions at which one term acted, summed over the request's prompts and replies.

    Attributes:
        prompt: Prompt positions. Without a gate this includes those read from the prefix cache; with a gate it does not, since
            what the gate decided there is not kept.
        generated: Generated tokens that were fed to the model; the last token of a reply never is.
    """

    prompt: int
    generated: int
