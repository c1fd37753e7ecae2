"""Trait folders: contrastive scenarios, the judge's rubric, the evaluation questions.

`<root>/<category>/<trait>/` holds:

- one style of contrastive pairs or more (`trait_extraction.data.styles`): `positive.jsonl` and `negative.jsonl`, a scenario a
  line, `{"prompt", "response"?, "system_prompt"?}`; `instructed.json`, system prompts for generated replies;
  `positive.txt` and `negative.txt`, raw text for base models, a text a line. Line i of both sides is one pair.
- `definition.txt`, the 0-100 rubric of the judge.
- `steering.json`: `{"questions": [...], "direction": "positive" | "negative", "metric"?: {"kind": ..., ...}}`.

Every error names file and line.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from trait_core.errors import DatasetError, first_fault
from trait_core.schema import is_name

from trait_extraction.data.scenarios import SIDES, Scenario, Style, Text, field_error, read_text
from trait_extraction.data.styles import read_sides, styles_of


class SteeringSpec(BaseModel):
    """`steering.json`: how the trait is evaluated.

    Attributes:
        questions: Prompts that a sweep steers on.
        direction: Which side of the pair is the trait.
        metric: The lexical metric, for the client to build: `kind` and its options.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    questions: Annotated[list[Text], Field(min_length=1)]
    direction: Literal["positive", "negative"]
    metric: dict[str, Any] | None = None


@dataclass(frozen=True)
class TraitDataset:
    """A validated trait folder.

    Args:
        trait: The folder's name.
        category: The name of the folder above.
        folder: Where it stands.
        style: `written`, `instructed` or `completions`; one for both sides.
        positive: Scenarios that show the trait.
        negative: Scenarios that do not; entry i is paired with `positive[i]`.
        definition: The judge's rubric.
        steering: Questions, direction and metric.
        origin: The files that the two sides were read from.
        default_style: Whether this style is the folder's default.
        derived: Completions that were made from the written pairs.
    """

    trait: str
    category: str
    folder: Path
    style: Style
    positive: tuple[Scenario, ...]
    negative: tuple[Scenario, ...]
    definition: str
    steering: SteeringSpec
    origin: tuple[Path, Path]
    default_style: bool = True
    derived: bool = False

    @property
    def n_scenarios(self) -> int:
        """Contrastive pairs."""
        return len(self.positive)

    @property
    def name(self) -> str:
        """Of its vectors: the trait's own, with the style behind it where that is not the folder's default."""
        return self.trait if self.default_style else f"{self.trait}.{self.style}"

    @property
    def is_generated(self) -> bool:
        """Whether the model is still to write replies."""
        return self.style == "instructed" and any(s.response is None for s in (*self.positive, *self.negative))

    def where(self, i: int) -> str:
        """File and line of entry i of `(*positive, *negative)`; of a file that holds both sides, which one it is."""
        side, line = divmod(i, self.n_scenarios)
        path = self.origin[side]
        return f"{path}:{line + 1}" if path.suffix != ".json" else f"{path}: {SIDES[side]} scenario {line + 1}"

    def with_replies(self, kept: Sequence[int], positive: Sequence[str], negative: Sequence[str]) -> "TraitDataset":
        """The kept scenarios with generated replies, to be read as if they were written.

        Args:
            kept: Indices of scenarios.
            positive: A reply for each scenario of this dataset, positive side.
            negative: The same for the other side.
        """
        sides = [
            tuple(side[i].model_copy(update={"response": replies[i]}) for i in kept)
            for side, replies in ((self.positive, positive), (self.negative, negative))
        ]
        return replace(self, positive=sides[0], negative=sides[1])

    @property
    def digest(self) -> str:
        """sha256 of what a vector depends on: style and scenarios, whatever the layout of the files."""
        content = {
            "style": self.style,
            "positive": [s.model_dump() for s in self.positive],
            "negative": [s.model_dump() for s in self.negative],
        }
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


# ---------------------------------------------------------------------------------------------------- finding


def list_traits(root: Path) -> list[Path]:
    """Trait folders under `root`, in order of category and name.

    Raises:
        DatasetError: `root` is not a folder, or holds no trait.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder of datasets: give --datasets <folder with <category>/<trait>>")
    folders = sorted(p for p in root.glob("*/*") if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise DatasetError(f"{root}: no trait folders <category>/<trait> in it")
    return folders


def find_trait(root: Path, name: str) -> Path:
    """The folder of a trait, by its name or as `<category>/<trait>`.

    Raises:
        DatasetError: There is no such trait, or more than one.
    """
    folders = list_traits(root)
    found = [p for p in folders if name in (p.name, f"{p.parent.name}/{p.name}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise DatasetError(f"trait {name!r} is in several categories: write {' or '.join(_labels(found))}")
    names = sorted({p.name for p in folders})
    close = get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise DatasetError(f"{root}: no trait {name!r}: {hint}it holds {', '.join(names)}")


def _labels(folders: list[Path]) -> list[str]:
    return [f"{p.parent.name}/{p.name}" for p in folders]


# ---------------------------------------------------------------------------------------------------- loading


def load_trait(folder: Path, style: Style | None = None) -> TraitDataset:
    """Read and check a trait folder.

    Args:
        folder: `<root>/<category>/<trait>`.
        style: Which of its styles; None takes its default, the first of written, instructed, completions.

    Raises:
        DatasetError: A file is missing or breaks a rule; the message names file and line.
    """
    if not is_name(folder.name):
        raise DatasetError(f"{folder}: a trait's name is lower case letters, digits, _ . and -, 64 at most")
    sides = read_sides(folder, style)
    positive, negative = sides.pairs
    dataset = TraitDataset(
        trait=folder.name,
        category=folder.parent.name,
        folder=folder,
        style=sides.style,
        positive=positive,
        negative=negative,
        definition=_read_definition(folder / "definition.txt"),
        steering=_read_steering(folder / "steering.json"),
        origin=sides.origin,
        default_style=sides.style == styles_of(folder)[0],
        derived=sides.derived,
    )
    if dataset.is_generated:
        _check_questions_are_held_out(dataset)
    return dataset


def _check_questions_are_held_out(dataset: TraitDataset) -> None:
    """Steering is tested on the questions: what the model says to them must not be in the vector."""
    both = {s.prompt for s in dataset.positive} & set(dataset.steering.questions)
    if both:
        raise DatasetError(
            f"{dataset.origin[0]}: prompt {min(both)[:60]!r} is an evaluation question of steering.json: ask another one"
        )


def _read_definition(path: Path) -> str:
    if not path.is_file():
        raise DatasetError(f"{path}: is missing: write the judge's 0-100 rubric")
    definition = read_text(path).strip()
    if not definition:
        raise DatasetError(f"{path}:1: is empty: write the judge's 0-100 rubric")
    return definition


def _read_steering(path: Path) -> SteeringSpec:
    if not path.is_file():
        raise DatasetError(f'{path}: is missing: write {{"questions": [...], "direction": "positive"}}')
    text = read_text(path)
    try:
        spec = SteeringSpec.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno})") from error
    except ValidationError as error:
        key = str(next(iter(first_fault(error).loc), ""))
        raise DatasetError(
            f"{path}:{_line_of(text, key)}: {field_error(error, 'questions, direction, metric')}"
        ) from error
    if spec.metric is not None and not isinstance(spec.metric.get("kind"), str):
        raise DatasetError(f'{path}:{_line_of(text, "metric")}: metric needs a "kind", for example "language"')
    if repeated := _repeated(spec.questions):
        raise DatasetError(f"{path}:{_line_of(text, repeated)}: question {repeated[:60]!r} stands twice")
    return spec


def _line_of(text: str, key: str) -> int:
    """The line on which a JSON string first stands; 1 if it does not."""
    at = text.find(json.dumps(key, ensure_ascii=False))
    return text.count("\n", 0, max(at, 0)) + 1


def _repeated(texts: list[str]) -> str | None:
    return next((text for i, text in enumerate(texts) if text in texts[:i]), None)
