"""Trait folders: contrastive scenarios, the judge's rubric, the evaluation questions.

`<root>/<category>/<trait>/` holds:

- `positive.jsonl` and `negative.jsonl`, a scenario a line: `{"prompt", "response"?, "system_prompt"?}`. Line i of both
  is one contrastive pair. With `response` the written reply is read as it stands; without, the model generates it.
  Or `positive.txt` and `negative.txt`, raw text for base models, a text a line.
- `definition.txt`, the 0-100 rubric of the judge.
- `steering.json`: `{"questions": [...], "direction": "positive" | "negative", "metric"?: {"kind": ..., ...}}`.

Every error names file and line.
"""

import hashlib
import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from trait_client.errors import DatasetError
from trait_client.schema import is_name

from trait_extraction.scenarios import Scenario, Style, Text, field_error, read_sides, read_text


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
        style: `written`, `generated` or `text`; one for both sides.
        positive: Scenarios that show the trait.
        negative: Scenarios that do not; entry i is paired with `positive[i]`.
        definition: The judge's rubric.
        steering: Questions, direction and metric.
    """

    trait: str
    category: str
    folder: Path
    style: Style
    positive: tuple[Scenario, ...]
    negative: tuple[Scenario, ...]
    definition: str
    steering: SteeringSpec

    @property
    def n_scenarios(self) -> int:
        """Contrastive pairs."""
        return len(self.positive)

    @property
    def side_paths(self) -> tuple[Path, Path]:
        """The files of the positive and the negative side."""
        suffix = ".txt" if self.style == "text" else ".jsonl"
        return self.folder / f"positive{suffix}", self.folder / f"negative{suffix}"

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


def load_trait(folder: Path) -> TraitDataset:
    """Read and check a trait folder.

    Raises:
        DatasetError: A file is missing or breaks a rule; the message names file and line.
    """
    if not is_name(folder.name):
        raise DatasetError(f"{folder}: a trait's name is lower case letters, digits, _ . and -, 64 at most")
    style, positive, negative = read_sides(folder)
    return TraitDataset(
        trait=folder.name,
        category=folder.parent.name,
        folder=folder,
        style=style,
        positive=positive,
        negative=negative,
        definition=_read_definition(folder / "definition.txt"),
        steering=_read_steering(folder / "steering.json"),
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
        key = str(error.errors()[0]["loc"][0]) if error.errors()[0]["loc"] else ""
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
