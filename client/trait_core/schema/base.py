"""The common parts of the wire schema: names, limits, and the bases of requests and responses."""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from trait_core.chat_templates import checked_kwargs

NAME_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
"""Names of vectors, traits and methods."""

SHA256_PREFIX = "sha256:"
SHA256_PATTERN = rf"^{SHA256_PREFIX}[0-9a-f]{{64}}$"

NO_ADAPTER = "none"
"""Adapter name of the base model."""

ANY_TRAIT = "*"
"""Trait name of scores that do not depend on a trait: coherence, and measures of the text alone."""

MAX_TERMS = 32
MAX_LAYERS = 512

Unit = Literal["dose", "separation", "raw"]
Operation = Literal["add", "ablate", "set", "scale", "floor", "ceiling", "replace", "rotate"]
NamedScope = Literal["all", "prompt", "generated", "last_prompt"]
Hold = Literal["token", "latch", "prompt"]
HookPoint = Literal["resid_post", "attn_out", "mlp_out"]
"""Place in a decoder block: the stream behind it, what its attention adds to the stream, what its MLP or experts add."""

RESID_POST: HookPoint = "resid_post"
"""The hook point that every engine has."""

HEAD_OUT: Final = "head_out"
"""Place in a block that can be captured where an engine has it: what the attention heads put out, side by side, before the output
projection mixes them. `head_out[3]` is one of them, counted from 0."""

MAX_HEADS = 1024
HEAD_PATTERN = rf"^{HEAD_OUT}(\[\d{{1,3}}\])?$"
HeadPoint = Annotated[str, Field(pattern=HEAD_PATTERN)]

FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Layer = Annotated[int, Field(ge=0, lt=MAX_LAYERS)]
ChatTemplateKwargs = Annotated[dict[str, JsonValue] | None, AfterValidator(checked_kwargs)]
"""Variables of the model's chat template, such as `enable_thinking`; {} is None."""

VectorReference = Annotated[str, Field(pattern=rf"({NAME_PATTERN})|({SHA256_PATTERN})", max_length=71)]


def head_of(at: str) -> int | None:
    """The number in `head_out[3]`; None for all heads, `head_out`, and for other places."""
    number = at.removeprefix(HEAD_OUT).strip("[]")
    return int(number) if at.startswith(HEAD_OUT) and number else None


def is_heads(at: str) -> bool:
    """Tell whether a place is that of attention heads."""
    return at.startswith(HEAD_OUT)


def is_name(text: str) -> bool:
    """Tell whether `text` is a valid name of a vector, trait or method."""
    return re.fullmatch(NAME_PATTERN, text) is not None


class Request(BaseModel):
    """Base of requests: strict."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Response(BaseModel):
    """Base of responses: unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
