"""Reads the damage set: neutral passages and multiple-choice questions, on which steering should change nothing.

::

    {"id": "tides", "text": "The level of the sea ..."}
    {"id": "nature-1", "question": "...", "options": ["...", "...", "...", "..."], "answer": "B"}
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trait_core.errors import DatasetError
from trait_core.text_files import read_entries
from trait_core.traits.files import MAX_CHARACTERS

NEUTRAL, CHOICES = "neutral.jsonl", "choices.jsonl"

Letter = Literal["A", "B", "C", "D"]
LETTERS: tuple[Letter, ...] = ("A", "B", "C", "D")

Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS, pattern=r"\S")]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: Annotated[str, Field(min_length=1, max_length=200)]


class Passage(_Entry):
    """A neutral text.

    Attributes:
        id: Its name.
        text: One paragraph.
    """

    text: Text


class ChoiceQuestion(_Entry):
    """A question with four options, one of them right.

    Attributes:
        id: Its name.
        question: The question.
        options: The texts of A, B, C and D; all different.
        answer: Letter of the right option.
    """

    question: Text
    options: Annotated[list[Text], Field(min_length=len(LETTERS), max_length=len(LETTERS))]
    answer: Letter

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        folded = [option.strip().casefold() for option in self.options]
        if twice := {option for option in folded if folded.count(option) > 1}:
            raise ValueError(f"the option {min(twice)!r} occurs twice")
        return self

    @property
    def right(self) -> str:
        """Text of the right option."""
        return self.options[LETTERS.index(self.answer)]

    def prompt(self) -> str:
        """The question, one line for each option, and `Answer:` without the letter."""
        lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=True)]
        return "\n".join([self.question, *lines, "Answer:"])


def read_passages(path: Path) -> list[Passage]:
    """Read neutral passages.

    Raises:
        DatasetError: The file is missing or malformed, or holds an id or a text twice; the message names file and line.
    """
    return _read(path, Passage, lambda passage: passage.text, "write one passage on each line: id, text")


def read_choices(path: Path) -> list[ChoiceQuestion]:
    """Read multiple-choice questions.

    Raises:
        DatasetError: The file is missing or malformed, or holds an id or a question twice; the message names file and line.
    """
    wanted = "write one question on each line: id, question, options (four), answer (A to D)"
    return _read(path, ChoiceQuestion, lambda choice: choice.question, wanted)


Entry = TypeVar("Entry", bound=_Entry)


def _read(path: Path, model: type[Entry], content: Callable[[Entry], str], wanted: str) -> list[Entry]:
    entries: list[Entry] = []
    seen: dict[tuple[str, str], int] = {}
    for number, entry in read_entries(path, model, wanted):
        for what, value in (("id", entry.id), ("text", content(entry).strip().casefold())):
            if (what, value) in seen:
                raise DatasetError(f"{path}:{number}: the same {what} is already on line {seen[what, value]}")
            seen[what, value] = number
        entries.append(entry)
    return entries
