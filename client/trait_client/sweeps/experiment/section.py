"""Common base of the tables of `experiment.toml`, and types of their values."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from trait_core.errors import InvalidRequestError
from trait_core.gate_text import NO_GATE, parse_gate
from trait_core.schema import NAME_PATTERN, FiniteFloat, Gate, Layer


def _gate(value: Any) -> Any:
    """A gate that is written as text, or `none`."""
    if not isinstance(value, str):
        return value
    try:
        return None if value.strip() == NO_GATE else parse_gate(value)
    except InvalidRequestError as error:
        raise ValueError(str(error).removeprefix("when ")) from error


Name = Annotated[str, Field(pattern=NAME_PATTERN)]
LayerSet = Annotated[list[Layer], Field(min_length=1)]
Layers = Annotated[list[Layer | LayerSet], Field(min_length=1)] | Literal["chosen"]
Coefficients = Annotated[list[FiniteFloat], Field(min_length=1)]


def _registered(gate: Gate | None) -> Gate | None:
    """Refuse a gate whose vector has no name by which results could say it."""
    if gate is not None and not isinstance(gate.vector, str):
        raise ValueError("a gate of a sweep takes a registered vector: register the inline one, and give its name")
    return gate


OptionalGate = Annotated[Gate | None, BeforeValidator(_gate), AfterValidator(_registered)]
Label = Annotated[str, Field(min_length=1, max_length=200)]


class Section(BaseModel):
    """A table of the file; strict, without unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
