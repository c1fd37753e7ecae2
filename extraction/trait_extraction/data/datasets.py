"""Trait folders: contrastive scenarios, the judge's rubric, the evaluation questions.

`<root>/<category>/<trait>/` holds:

- one or more styles of contrastive scenarios (`trait_extraction.data.styles`): `positive.jsonl` and `negative.jsonl`, one
  scenario per line, `{"prompt", "response"?, "system_prompt"?}`; `instructed.json`, system prompts for generated replies;
  `positive.txt` and `negative.txt`, raw text for base models, one text per line. Line i of both sides is one pair where they
  have as many lines; else the sides are unpaired.
- `definition.txt`, the 0-100 rubric of the judge; only the judge needs it.
- `steering.json`: `{"questions": [...], "direction"?: "positive" | "negative", "metric"?: {"kind": ..., ...}}`, or the
  questions alone; only sweeps need it.

Every error names the file and, where possible, the line. Scenarios that cannot help, since they are the same on both sides or
occur twice, are left out, and `TraitDataset.left_out` says which (`trait_extraction.data.left_out`); unknown fields and the
like are in `TraitDataset.remarks`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trait_core.errors import DatasetError
from trait_core.schema import SHA256_PREFIX, is_name
from trait_core.storage import json_sha256
from trait_core.text_files import is_blank
from trait_core.traits import Remark, SteeringSpec, folded_name, inspect_steering, read_definition
from trait_core.traits.files import DEFINITION

from trait_extraction.data.scenarios import SIDES, CheckedSides, Numbers, Scenario, Style, groups_of
from trait_extraction.data.split import Groups
from trait_extraction.data.styles import read_sides, styles_of

Kept = tuple[Sequence[int], Sequence[int]]
"""Indices of the scenarios that are kept, positive and negative side; of pairs, the same on both."""


@dataclass(frozen=True)
class TraitDataset:
    """A validated trait folder.

    Args:
        trait: The folder's name.
        category: The parent folder's name.
        folder: Path of the folder.
        style: `written`, `instructed`, `completions` or `continued`.
        positive: Scenarios that show the trait.
        negative: Scenarios that do not; entry i is paired with `positive[i]` where the sides are paired.
        definition: The judge's rubric; None if the folder has none.
        steering: The evaluation: questions, direction and metric.
        numbers: Number of each scenario in these files, positive and negative side, from 1: a line, or a scenario.
        origin: The files that the two sides were read from.
        default_style: True if this style is the folder's default.
        derived: True for completions that are derived from the written pairs.
        paired: True if the sides are pairs; they are not if they differ in number.
        left_out: One sentence for each reason for which scenarios of the files are not used.
        remarks: Other parts of the files that are missing or not used.
    """

    trait: str
    category: str
    folder: Path
    style: Style
    positive: tuple[Scenario, ...]
    negative: tuple[Scenario, ...]
    definition: str | None
    steering: SteeringSpec
    numbers: Numbers
    origin: tuple[Path, Path]
    default_style: bool = True
    derived: bool = False
    paired: bool = True
    left_out: tuple[str, ...] = ()
    remarks: tuple[Remark, ...] = ()

    @property
    def n_scenarios(self) -> int:
        """Number of contrastive pairs; of unpaired sides, the number of scenarios of the smaller one."""
        return min(len(self.positive), len(self.negative))

    @property
    def n_texts(self) -> int:
        """Number of scenarios of both sides together."""
        return len(self.positive) + len(self.negative)

    @property
    def rubric(self) -> str | None:
        """The text that a judge rates by: `eval_prompt` of steering.json, else the definition."""
        return self.steering.eval_prompt or self.definition

    @property
    def groups(self) -> Groups:
        """The group of each scenario in the held-out split: scenarios of one prompt are in the same part."""
        return groups_of((self.positive, self.negative), paired=self.paired)

    @property
    def name(self) -> str:
        """Name of its vectors: the trait's name, followed by the style if that is not the folder's default."""
        return self.trait if self.default_style else f"{self.trait}.{self.style}"

    @property
    def is_generated(self) -> bool:
        """True if the model has yet to generate the replies."""
        generated = self.style in {"instructed", "continued"}
        return generated and any(s.response is None for s in (*self.positive, *self.negative))

    @property
    def is_raw(self) -> bool:
        """True if the scenarios are raw text, which uses no chat template."""
        return self.style in {"completions", "continued"}

    def repeated(self, n: int) -> "TraitDataset":
        """Each scenario `n` times in a row, for as many replies; all of them are in the same part of the held-out split."""
        positive, negative = ([s for s in side for _ in range(n)] for side in (self.positive, self.negative))
        first, second = ([number for number in side for _ in range(n)] for side in self.numbers)
        return replace(self, positive=tuple(positive), negative=tuple(negative), numbers=(tuple(first), tuple(second)))

    def where(self, i: int) -> str:
        """File and line of entry i of `(*positive, *negative)`; side and number in a file that is one JSON value."""
        side, at = (0, i) if i < len(self.positive) else (1, i - len(self.positive))
        path, number = self.origin[side], self.numbers[side][at]
        return f"{path}:{number}" if path.suffix != ".json" else f"{path}: {SIDES[side]} scenario {number}"

    def with_replies(self, kept: Kept, positive: Sequence[Scenario], negative: Sequence[Scenario]) -> "TraitDataset":
        """The kept scenarios with generated replies, to read like written ones.

        Args:
            kept: Indices of the scenarios to keep, positive and negative side.
            positive: Every scenario of this dataset with its reply, positive side.
            negative: The same for the other side.
        """
        sides = [tuple(side[i] for i in at) for side, at in zip((positive, negative), kept, strict=True)]
        first, second = (tuple(numbers[i] for i in at) for numbers, at in zip(self.numbers, kept, strict=True))
        return replace(self, positive=sides[0], negative=sides[1], numbers=(first, second))

    @property
    def digest(self) -> str:
        """sha256 of style and scenarios, which a vector depends on; independent of the layout of the files."""
        content: dict[str, Any] = {
            "style": self.style,
            "positive": [s.model_dump() for s in self.positive],
            "negative": [s.model_dump() for s in self.negative],
        }
        if not self.paired:
            content["paired"] = False
        return SHA256_PREFIX + json_sha256(content, ensure_ascii=False)


def load_trait(folder: Path, style: Style | None = None, *, name: str | None = None) -> TraitDataset:
    """Read and check a trait folder. What it holds besides is reported in `remarks` and `left_out`, not refused.

    Args:
        folder: `<root>/<category>/<trait>`.
        style: One of its styles; None takes the default, the first of written, instructed, completions.
        name: Name of its vectors (`trait_core.traits.TraitPlace.name`); None takes the folder's.

    Raises:
        DatasetError: A file that extraction needs is missing or breaks a rule; the message names file and line.
    """
    trait, remarks = _named(folder, name)
    sides = read_sides(folder, style)
    definition, about_definition = _definition(folder)
    steering, about_steering = inspect_steering(folder)
    used = sides.used
    if sides.style in {"instructed", "continued"}:
        used = _without_questions(used, steering.questions, sides.origin)
    positive, negative = used.sides
    return TraitDataset(
        trait=trait,
        category=folder.absolute().parent.name,
        folder=folder,
        style=sides.style,
        positive=positive,
        negative=negative,
        definition=definition,
        steering=steering,
        numbers=used.numbers,
        origin=sides.origin,
        default_style=sides.style == styles_of(folder)[0],
        derived=sides.derived,
        paired=used.paired,
        left_out=used.left_out,
        remarks=(*remarks, *used.remarks, *about_definition, *about_steering),
    )


def _named(folder: Path, name: str | None) -> tuple[str, tuple[Remark, ...]]:
    """The name of a folder's vectors, with a remark if it is not the folder's own."""
    own = folder.absolute().name
    trait = folded_name(own) if name is None else name
    if not is_name(trait):
        raise DatasetError(
            f"{folder}: a vector cannot be called {trait[:80]!r}: 64 characters at most, letters, digits, _ . and -; rename the folder"
        )
    same = trait == own or trait.endswith(f".{own}")
    return trait, () if same else (
        Remark(str(folder), f"its vectors are called {trait!r}, since names are lower case letters, digits, _ . and -"),
    )


def _definition(folder: Path) -> tuple[str | None, tuple[Remark, ...]]:
    path = folder / DEFINITION
    if is_blank(path):
        return None, (Remark(str(path), "is missing or empty: a judge has no rubric for this trait"),)
    return read_definition(folder), ()


def _without_questions(given: CheckedSides, questions: Sequence[str], paths: tuple[Path, Path]) -> CheckedSides:
    """Leave out scenarios that are evaluation questions: steering is tested on those, so replies to them are not in a vector.

    Raises:
        DatasetError: Too few scenarios remain.
    """
    asked = set(questions)
    marked = [[s.prompt in asked for s in side] for side in given.sides]
    if not any(map(any, marked)):
        return given
    if given.paired:
        marked = [[a or b for a, b in zip(*marked, strict=True)]] * 2
    kept = [[i for i, found in enumerate(side) if not found] for side in marked]
    n = sum(map(sum, marked)) // (2 if given.paired else 1)
    what = ("pair" if given.paired else "scenario") + ("s are" if n > 1 else " is")
    said = f"{paths[0].parent}: {n} {what} left out, with an evaluation question of steering.json as the prompt"
    return given.chosen((kept[0], kept[1]), [said]).require_enough(paths[0])
