"""Trait folders: contrastive scenarios, the judge's rubric, the evaluation questions.

`<root>/<category>/<trait>/` holds:

- one or more styles of contrastive pairs (`trait_extraction.data.styles`): `positive.jsonl` and `negative.jsonl`, one
  scenario per line, `{"prompt", "response"?, "system_prompt"?}`; `instructed.json`, system prompts for generated replies;
  `positive.txt` and `negative.txt`, raw text for base models, one text per line. Line i of both sides is one pair.
- `definition.txt`, the 0-100 rubric of the judge.
- `steering.json`: `{"questions": [...], "direction": "positive" | "negative", "metric"?: {"kind": ..., ...}}`.

Every error names the file and, where possible, the line. Pairs that cannot help, since they are the same on both sides or occur
twice, are left out, and `TraitDataset.left_out` says which (`trait_extraction.data.left_out`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trait_core.errors import DatasetError
from trait_core.schema import SHA256_PREFIX, is_name
from trait_core.storage import json_sha256
from trait_core.traits import SteeringSpec, read_definition, read_steering

from trait_extraction.data.scenarios import SIDES, Scenario, Style
from trait_extraction.data.styles import read_sides, styles_of


@dataclass(frozen=True)
class TraitDataset:
    """A validated trait folder.

    Args:
        trait: The folder's name.
        category: The parent folder's name.
        folder: Path of the folder.
        style: `written`, `instructed` or `completions`.
        positive: Scenarios that show the trait.
        negative: Scenarios that do not; entry i is paired with `positive[i]`.
        definition: The judge's rubric.
        steering: The evaluation: questions, direction and metric.
        numbers: Number of each pair in these files, from 1: a line, or a scenario.
        origin: The files that the two sides were read from.
        default_style: True if this style is the folder's default.
        derived: True for completions that are derived from the written pairs.
        left_out: One sentence for each reason for which pairs of the files are not used.
    """

    trait: str
    category: str
    folder: Path
    style: Style
    positive: tuple[Scenario, ...]
    negative: tuple[Scenario, ...]
    definition: str
    steering: SteeringSpec
    numbers: tuple[int, ...]
    origin: tuple[Path, Path]
    default_style: bool = True
    derived: bool = False
    left_out: tuple[str, ...] = ()

    @property
    def n_scenarios(self) -> int:
        """Number of contrastive pairs."""
        return len(self.positive)

    @property
    def name(self) -> str:
        """Name of its vectors: the trait's name, followed by the style if that is not the folder's default."""
        return self.trait if self.default_style else f"{self.trait}.{self.style}"

    @property
    def is_generated(self) -> bool:
        """True if the model has yet to generate the replies."""
        return self.style == "instructed" and any(s.response is None for s in (*self.positive, *self.negative))

    def where(self, i: int) -> str:
        """File and line of entry i of `(*positive, *negative)`; side and number in a file with both sides."""
        side, pair = divmod(i, self.n_scenarios)
        path, number = self.origin[side], self.numbers[pair]
        return f"{path}:{number}" if path.suffix != ".json" else f"{path}: {SIDES[side]} scenario {number}"

    def with_replies(self, kept: Sequence[int], positive: Sequence[str], negative: Sequence[str]) -> "TraitDataset":
        """The kept scenarios with generated replies, to read like written ones.

        Args:
            kept: Indices of the scenarios to keep.
            positive: One reply per scenario of this dataset, positive side.
            negative: The same for the other side.
        """
        sides = [
            tuple(side[i].model_copy(update={"response": replies[i]}) for i in kept)
            for side, replies in ((self.positive, positive), (self.negative, negative))
        ]
        numbers = tuple(self.numbers[i] for i in kept)
        return replace(self, positive=sides[0], negative=sides[1], numbers=numbers)

    @property
    def digest(self) -> str:
        """sha256 of style and scenarios, which a vector depends on; independent of the layout of the files."""
        content = {
            "style": self.style,
            "positive": [s.model_dump() for s in self.positive],
            "negative": [s.model_dump() for s in self.negative],
        }
        return SHA256_PREFIX + json_sha256(content, ensure_ascii=False)


def load_trait(folder: Path, style: Style | None = None) -> TraitDataset:
    """Read and check a trait folder.

    Args:
        folder: `<root>/<category>/<trait>`.
        style: One of its styles; None takes the default, the first of written, instructed, completions.

    Raises:
        DatasetError: A file is missing or breaks a rule; the message names file and line.
    """
    if not is_name(folder.name):
        raise DatasetError(f"{folder}: a trait's name has at most 64 lower case letters, digits, _ . and -")
    sides = read_sides(folder, style)
    positive, negative = sides.used.pairs
    dataset = TraitDataset(
        trait=folder.name,
        category=folder.parent.name,
        folder=folder,
        style=sides.style,
        positive=positive,
        negative=negative,
        definition=read_definition(folder, strict=True),
        steering=read_steering(folder, strict=True),
        numbers=sides.used.numbers,
        origin=sides.origin,
        default_style=sides.style == styles_of(folder)[0],
        derived=sides.derived,
        left_out=sides.used.left_out,
    )
    if dataset.is_generated:
        _check_questions_are_held_out(dataset)
    return dataset


def _check_questions_are_held_out(dataset: TraitDataset) -> None:
    """Steering is tested on the questions, so replies to them must not be in the vector."""
    both = {s.prompt for s in dataset.positive} & set(dataset.steering.questions)
    if both:
        raise DatasetError(
            f"{dataset.origin[0]}: prompt {min(both)[:60]!r} is an evaluation question of steering.json: use another prompt"
        )
