"""Trait folders, `<root>/<category>/<trait>/`: where they are, the judge's rubric and the evaluation questions."""

from trait_core.traits.files import (
    PLACEHOLDER,
    SteeringSpec,
    field_error,
    inspect_steering,
    read_definition,
    read_steering,
    read_trait_text,
)
from trait_core.traits.folder import (
    TraitPlace,
    default_traits_folder,
    find_category,
    find_place,
    find_trait,
    folded_name,
    list_traits,
    trait_places,
)
from trait_core.traits.remarks import Remark, grouped

__all__ = [
    "PLACEHOLDER",
    "Remark",
    "SteeringSpec",
    "TraitPlace",
    "default_traits_folder",
    "field_error",
    "find_category",
    "find_place",
    "find_trait",
    "folded_name",
    "grouped",
    "inspect_steering",
    "list_traits",
    "read_definition",
    "read_steering",
    "read_trait_text",
    "trait_places",
]
