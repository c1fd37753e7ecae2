"""Reading as tokens: what a vector's directions promote and suppress, and what the model would say from a layer."""

from typing import Annotated

from pydantic import Base64Bytes, Field

from trait_core.schema.base import MAX_LAYERS, Layer, Request, Response

MAX_LENS_TOKENS = 200
"""Largest number of tokens at either end."""

TopK = Annotated[int, Field(ge=1, le=MAX_LENS_TOKENS)]

MAX_GUESSES = 50
"""Largest number of tokens that a lens in a reply gives for each layer."""


class StreamLens(Request):
    """`monitor.lens` of a request: what the model would say from a layer, for each generated token.

    The stream at the position that produces the token, after steering, goes through the model's own final norm and
    unembedding, as if the layers above were not there. Prompt positions before the last one are not read.

    Attributes:
        layers: 0-based decoder blocks whose output is read.
        top_k: Number of likeliest tokens of each.
    """

    layers: Annotated[list[Layer], Field(min_length=1, max_length=MAX_LAYERS)]
    top_k: Annotated[int, Field(ge=1, le=MAX_GUESSES)] = 5


class LensGuess(Response):
    """A token that the model would say next from a layer.

    Attributes:
        id: Token id.
        text: Its text, as in `LensToken`.
        logprob: Natural logarithm of its probability over the whole vocabulary, before temperature and penalties.
    """

    id: int
    text: str
    logprob: float


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
