"""References to vectors in a request: registered ones, and directions that travel with the request."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from trait_core.schema.base import Request, VectorReference

InlineType = Literal["float32", "float16"]

MAX_SUBSPACE = 16
"""Vectors of one subspace."""


class InlineVector(Request):
    """One direction, sent with the request: nothing is registered. Its length does not count: the coefficient sets the size.

    `trait_core.vectors.inline.inline_vector` makes one of an array.

    Attributes:
        inline: The `(d_model,)` numbers, little-endian, in base64.
        dtype: Their type.
    """

    inline: Annotated[str, Field(min_length=1, max_length=4_000_000)]
    dtype: InlineType = "float32"


def _kind(value: object) -> str:
    if isinstance(value, InlineVector | dict):
        return "{inline}"
    return "{list}" if isinstance(value, Sequence) and not isinstance(value, str) else "{name}"


OneVector = Annotated[
    Annotated[VectorReference, Tag("{name}")] | Annotated[InlineVector, Tag("{inline}")], Discriminator(_kind)
]
"""A registered name, `sha256:...`, or an inline vector."""

SteeringVector = Annotated[
    Annotated[VectorReference, Tag("{name}")]
    | Annotated[InlineVector, Tag("{inline}")]
    | Annotated[list[OneVector], Field(min_length=1, max_length=MAX_SUBSPACE), Tag("{list}")],
    Discriminator(_kind),
]
"""One vector, or for `ablate` the vectors that span a subspace."""
