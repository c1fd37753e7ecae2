"""Trait folders, `<root>/<category>/<trait>/`: where they are, the judge's rubric and the evaluation questions."""

from trait_core.traits.files import (
    PLACEHOLDER,
    SteeringSpec,
    field_error,
    read_definition,
    read_steering,
    read_trait_text,
)
from trait_core.traits.folder import default_traits_folder, find_trait, list_traits

__all__ = [
    "PLACEHOLDER",
    "SteeringSpec",
    "default_traits_folder",
    "field_error",
    "find_trait",
    "list_traits",
    "read_definition",
    "read_steering",
    "read_trait_text",
]
