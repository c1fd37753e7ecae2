"""Reads and checks the two sides of a trait: contrastive scenarios, paired by line where both files have as many."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from trait_core.errors import DatasetError
from trait_core.traits import Remark
from trait_core.traits.files import Text

from trait_extraction.data.left_out import select, select_texts

Style = Literal["written", "instructed", "completions", "continued"]
SIDES = ("positive", "negative")
MIN_SCENARIOS = 8


class Scenario(BaseModel):
    """One line of a side.

    Attributes:
        prompt: The user's message, or the raw text of a completion.
        response: The written reply; None if the model generates it. For a completion, the part of the text that differs
            between the sides, if it is known.
        system_prompt: The system message; None leaves it to the model's chat template.
    """

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    prompt: Text
    response: Text | None = None
    system_prompt: Text | None = None


TwoSides = tuple[tuple[Scenario, ...], tuple[Scenario, ...]]
"""The positive and the negative side; if they are paired, entry i of both is one pair."""

Numbers = tuple[tuple[int, ...], tuple[int, ...]]
"""Number of each scenario in its file, from 1: a line, or an entry of a list."""


@dataclass(frozen=True)
class CheckedSides:
    """The scenarios that are used, and where they are in their files.

    Args:
        sides: Both sides.
        numbers: Their numbers in their files.
        paired: True if entry i of both sides is one pair.
        left_out: One sentence for each reason for which other scenarios of the files are not used.
        remarks: Other parts of the files that are not used.
    """

    sides: TwoSides
    numbers: Numbers
    paired: bool = True
    left_out: tuple[str, ...] = ()
    remarks: tuple[Remark, ...] = field(default=(), kw_only=True)

    def chosen(self, kept: tuple[Sequence[int], Sequence[int]], left_out: Sequence[str] = ()) -> "CheckedSides":
        """The scenarios with these indices on each side, and further sentences about those that are not used."""
        positive, negative = (tuple(side[i] for i in at) for side, at in zip(self.sides, kept, strict=True))
        first, second = (tuple(numbers[i] for i in at) for numbers, at in zip(self.numbers, kept, strict=True))
        return replace(self, sides=(positive, negative), numbers=(first, second), left_out=(*self.left_out, *left_out))

    def require_enough(self, path: Path) -> "CheckedSides":
        """The same sides.

        Raises:
            DatasetError: One of them has fewer than 8 scenarios; the message says what was left out.
        """
        if (least := min(map(len, self.sides))) < MIN_SCENARIOS:
            raise DatasetError(
                f"{path}: {least} scenarios remain, which are too few: write at least {MIN_SCENARIOS}. "
                + "; ".join(self.left_out)
            )
        return self


def without_unusable(given: CheckedSides, paths: tuple[Path, Path], *, whole: bool = False) -> CheckedSides:
    """Leave out scenarios that are on both sides, and those that occur before; of pairs, both sides of them.

    Args:
        given: The scenarios.
        paths: Their files.
        whole: Leave out only pairs that repeat an earlier scenario as a whole, not those that repeat a prompt.

    Raises:
        DatasetError: Everything is the same on both sides, or too little remains.
    """
    if not given.paired:
        return _without_unusable_lines(given, paths)
    positive, negative = given.sides
    texts = list(zip(positive, negative, strict=True))
    prompts = [((p.system_prompt, p.prompt), (n.system_prompt, n.prompt)) for p, n in texts]
    chosen = select(texts, texts if whole else prompts)
    if len(chosen.shared) == len(texts):
        raise _same_texts(paths)
    noun = "line" if given.numbers[0] == given.numbers[1] else f"{paths[0].name} line"
    where = f"{paths[0].parent}: {paths[0].name} and {paths[1].name}"
    left_out = chosen.sentences(where, noun, given.numbers[0])
    return given.chosen((chosen.kept, chosen.kept), left_out).require_enough(paths[0])


def _without_unusable_lines(given: CheckedSides, paths: tuple[Path, Path]) -> CheckedSides:
    kept: list[tuple[int, ...]] = []
    left_out: list[str] = []
    for side in (0, 1):
        chosen = select_texts(given.sides[side], given.sides[1 - side])
        kept.append(chosen.kept)
        left_out += chosen.sentences(str(paths[side]), "line", given.numbers[side])
    if not any(kept):
        raise _same_texts(paths)
    least = paths[0] if len(kept[0]) <= len(kept[1]) else paths[1]
    return given.chosen((kept[0], kept[1]), left_out).require_enough(least)


def _same_texts(paths: tuple[Path, Path]) -> DatasetError:
    return DatasetError(
        f"{paths[1]}: has the same texts as {paths[0].name}: the two sides must differ; is one a copy of the other?"
    )


def groups_of(sides: TwoSides, *, paired: bool) -> tuple[tuple[Hashable, ...], tuple[Hashable, ...]]:
    """The group of each scenario for the held-out split: its prompt; for pairs, that of the positive side."""
    positive, negative = (tuple(scenario.prompt for scenario in side) for side in sides)
    return positive, positive if paired else negative
