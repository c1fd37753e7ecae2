"""Rubrics: the texts that a judge rates by, 0 to 100."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Self

from trait_core.schema import ANY_TRAIT
from trait_core.traits.files import inspect_steering, read_definition
from trait_core.traits.folder import find_trait

COHERENCE = ANY_TRAIT
"""`Rubric.trait` of the coherence rubric, which belongs to no trait."""

PLACES = ("{question}", "{answer}")
"""The places of the prompt and of the reply in a rubric that is a whole question."""


@dataclass(frozen=True)
class Rubric:
    """A rubric.

    Args:
        trait: The trait's name; `*` for coherence.
        text: Defines what is rated, and what 0 and 100 mean.
    """

    trait: str
    text: str

    @property
    def is_question(self) -> bool:
        """True if the text is the whole question to a judge, with `{question}` and `{answer}` in the places of both texts."""
        return all(place in self.text for place in PLACES)

    @classmethod
    def load(cls, datasets: Path, trait: str) -> Self:
        """A trait's rubric: `eval_prompt` of its `steering.json` if it has one, else its `definition.txt`.

        Raises:
            DatasetError: No such trait, several of that name, or neither text.
        """
        folder = find_trait(datasets, trait)
        spec, _ = inspect_steering(folder)
        return cls(trait, (spec.eval_prompt or "").strip() or read_definition(folder))

    @classmethod
    def coherence(cls) -> Self:
        """The rubric of coherence, part of the package."""
        return cls(COHERENCE, (resources.files(__package__) / "coherence.txt").read_text(encoding="utf-8").strip())
