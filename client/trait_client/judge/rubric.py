"""Rubrics: what a judge rates by, 0 to 100."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Self

from trait_core.errors import DatasetError

FILE_NAME = "definition.txt"
COHERENCE = "*"
"""`Rubric.trait` of coherence, which belongs to no trait."""


@dataclass(frozen=True)
class Rubric:
    """One rubric.

    Args:
        trait: The trait's name; `*` for coherence.
        text: What is rated, and what 0 and 100 mean.
    """

    trait: str
    text: str

    @classmethod
    def load(cls, datasets: Path, trait: str) -> Self:
        """A trait's rubric, `datasets/*/<trait>/definition.txt`.

        Raises:
            DatasetError: No such trait, several of that name, or an empty file.
        """
        found = sorted(datasets.glob(f"*/{trait}/{FILE_NAME}"))
        if len(found) != 1:
            state = f"several: {', '.join(map(str, found))}" if found else "none"
            raise DatasetError(f"a judge of {trait!r} needs one file {datasets}/*/{trait}/{FILE_NAME}; found {state}")
        try:
            text = found[0].read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as error:
            raise DatasetError(f"{found[0]}: is not UTF-8: {error}") from error
        if not text:
            raise DatasetError(f"{found[0]}: is empty: write what 0, 50 and 100 look like")
        return cls(trait, text)

    @classmethod
    def coherence(cls) -> Self:
        """The rubric of coherence that comes with the judge."""
        return cls(COHERENCE, (resources.files(__package__) / "coherence.txt").read_text(encoding="utf-8").strip())
