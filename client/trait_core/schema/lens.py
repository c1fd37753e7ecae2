"""Reading a vector: the tokens that its directions promote and suppress."""

from typing import Annotated

from pydantic import Base64Bytes, Field

from trait_core.schema.base import MAX_LAYERS, Layer, Request, Response

MAX_LENS_TOKENS = 200
"""Largest number of tokens at either end."""

TopK = Annotated[int, Field(ge=1, le=MAX_LENS_TOKENS)]


class LensRequest(Request):
    """`POST /v1/lens`: read a vector file that is not registered.

    Attributes:
        file: base64 of the safetensors bytes.
        layers: Layers to read; None reads the chosen layer.
        top_k: Number of tokens at either end.
        allow_other_model: Accept a vector of another model with the same shape.
    """

    file: Annotated[Base64Bytes, Field(strict=False)]  # the route validates parsed JSON, where base64 is a text
    layers: Annotated[list[Layer], Field(min_length=1, max_length=MAX_LAYERS)] | None = None
    top_k: TopK = 20
    allow_other_model: bool = False


class LensToken(Response):
    """A token and how far a direction moves it.

    Attributes:
        id: Token id.
        text: Its text, with the space before it if it has one; several tokens may share a text.
        z: Its logit's distance from the mean over the vocabulary, in standard deviations over the vocabulary. On SmolLM2
            random directions move the most extreme of 49,152 tokens by 4.8 on average.
    """

    id: int
    text: str
    z: float


class LayerLens(Response):
    """The tokens that one layer's direction moves most.

    Attributes:
        promoted: Made likelier by a positive coefficient, the most extreme first.
        suppressed: Made less likely by it, the most extreme first.
    """

    layer: int
    promoted: list[LensToken]
    suppressed: list[LensToken]


class VectorLens(Response):
    """`GET /v1/vectors/NAME/lens` and `POST /v1/lens`.

    The direction goes through the model's own final norm and unembedding, as if it were the whole residual stream behind
    the last layer: what later layers make of it is not seen, so that a direction of an early layer may read as noise.

    Attributes:
        sha256: The vector file that was read.
        trait: Name of its trait.
    """

    sha256: str
    trait: str
    layers: list[LayerLens]
