"""Rubrics: the texts that a judge rates by, 0 to 100."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Self

from trait_core.schema import ANY_TRAIT
from trait_core.traits.files import DEFINITION, read_definition
from trait_core.traits.folder import find_trait

COHERENCE = ANY_TRAIT
"""`Rubric.trait` of the coherence rubric, which belongs to no trait."""


@dataclass(frozen=True)
class Rubric:
    """A rubric.

    Args:
        trait: The trait's name; `*` for coherence.
        text: Defines what is rated, and what 0 and 100 mean.
    """

    trait: str
    text: str

    @classmethod
    def load(cls, datasets: Path, trait: str) -> Self:
        """A trait's rubric, `datasets/*/<trait>/definition.txt`.

        Raises:
            DatasetError: No such trait, several of that name, or an empty file.
        """
        return cls(trait, read_definition(find_trait(datasets, trait, holding=DEFINITION), strict=False))

    @classmethod
    def coherence(cls) -> Self:
        """The rubric of coherence, part of the package."""
        return cls(COHERENCE, (resources.files(__package__) / "coherence.txt").read_text(encoding="utf-8").strip())
