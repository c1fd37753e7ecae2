"""Common base of the tables of `experiment.toml`, and types of their values."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from trait_core.schema import NAME_PATTERN, FiniteFloat, Layer

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
LayerSet = Annotated[list[Layer], Field(min_length=1)]
Layers = Annotated[list[Layer | LayerSet], Field(min_length=1)] | Literal["chosen"]
Coefficients = Annotated[list[FiniteFloat], Field(min_length=1)]
Label = Annotated[str, Field(min_length=1, max_length=200)]


class Section(BaseModel):
    """A table of the file; strict, without unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
