"""What the tables of `experiment.toml` share: their base, the types of their values, and how a wrong one is named."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trait_core.errors import InvalidRequestError
from trait_core.schema import NAME_PATTERN, FiniteFloat, Layer

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
LayerSet = Annotated[list[Layer], Field(min_length=1)]
Layers = Annotated[list[Layer | LayerSet], Field(min_length=1)] | Literal["chosen"]
Coefficients = Annotated[list[FiniteFloat], Field(min_length=1)]
Label = Annotated[str, Field(min_length=1, max_length=200)]


class Section(BaseModel):
    """A table of the file: strict, and nothing in it that is not known."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def first_error(error: ValidationError) -> InvalidRequestError:
    """The first wrong key; where it may be one thing or another, all that it may be."""
    details = error.errors(include_url=False)
    same = [detail for detail in details if detail["loc"][:1] == details[0]["loc"][:1]]
    key = max((_key(detail["loc"]) for detail in same), key=len)
    meant = [detail for detail in same if _key(detail["loc"]) == key]
    message = " or ".join(dict.fromkeys(detail["msg"].removeprefix("Value error, ") for detail in meant))
    if not key:
        return InvalidRequestError(message)
    shown = repr(meant[0]["input"])
    hidden = meant[0]["type"] == "missing" or key.startswith("judge")  # what stands there may be a key
    got = "" if hidden else f" (got {shown if len(shown) <= 120 else shown[:117] + '...'})"
    return InvalidRequestError(f"{key}: {message}{got}", param=key)


def _key(location: tuple[int | str, ...]) -> str:
    """A location without pydantic's names of a union's branches: `literal['chosen']`, `PositionScope`."""
    return ".".join(str(part) for part in location if re.fullmatch(r"(?!constrained-)[a-z0-9_.-]+", str(part)))
