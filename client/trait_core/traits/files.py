"""Reads the two files of a trait that are not scenarios: `definition.txt` and `steering.json`. Errors name file and line."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trait_core.errors import DatasetError, first_fault
from trait_core.text_files import is_blank, parse_json, read_text
from trait_core.traits.remarks import Remark

DEFINITION, STEERING = "definition.txt", "steering.json"
MAX_CHARACTERS = 1_000_000
"""Maximum length of a message on the wire."""
PLACEHOLDER = "REPLACE ME"
"""Marks every example of `trait-extract new-trait`; a file that contains it is not valid."""

WANTED = 'write {"questions": [...], "direction": "positive"}'

_STEERED_AWAY = (
    "direction is negative without a metric: the positive side is the trait, and tests were meant to steer away from it"
)

Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS, pattern=r"\S")]
Question = Annotated[str, Field(max_length=100_000)]


class SteeringSpec(BaseModel):
    """`steering.json`: how the trait is evaluated.

    Attributes:
        questions: Prompts that a sweep steers on; extraction never sees them.
        direction: The side on which the metric is high.
        metric: The lexical metric as JSON: `kind` and its options (`trait_client.scoring.lexical`).
        adversarial_prefix: A text before the questions that makes the trait harder to show; kept, and not used yet.
        eval_prompt: The judge's rubric, in place of `definition.txt` (`trait_client.judge.rubric`).
    """

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    questions: list[Question] = []
    direction: Literal["positive", "negative"] = "positive"
    metric: dict[str, Any] | None = None
    adversarial_prefix: Question | None = None
    eval_prompt: Question | None = None

    @property
    def trait_side(self) -> Literal["positive", "negative"]:
        """The side that shows the trait.

        Without a metric it is the positive one: a judge's score says how much a text shows the trait. `direction` is then
        the sign in which others steered to test it, as trait-interp writes it.
        """
        return "positive" if self.metric is None else self.direction


FIELDS = ", ".join(SteeringSpec.model_fields)


def read_definition(folder: Path) -> str:
    """The judge's rubric of a trait, `definition.txt`, without surrounding white space.

    Args:
        folder: The trait's folder.

    Raises:
        DatasetError: The file is missing, empty, not UTF-8, or still the example of `new-trait`.
    """
    return read_trait_text(folder / DEFINITION, "write the judge's 0-100 rubric: what 0, 50 and 100 look like").strip()


def read_steering(folder: Path) -> SteeringSpec:
    """The evaluation of a trait, `steering.json`, for a sweep.

    Args:
        folder: The trait's folder.

    Raises:
        DatasetError: The file is missing, has no question, or breaks a rule; the message names the line.
    """
    path = folder / STEERING
    spec, _ = parse_steering(path, read_trait_text(path, WANTED))
    if not spec.questions:
        raise DatasetError(f"{path}:1: questions: there is none to steer on: {WANTED}")
    return spec


def inspect_steering(folder: Path) -> tuple[SteeringSpec, tuple[Remark, ...]]:
    """The evaluation of a trait for extraction, which needs none, and remarks on what is missing or not used.

    Raises:
        DatasetError: The file breaks a rule; the message names the line.
    """
    path = folder / STEERING
    if is_blank(path):
        return SteeringSpec(), (Remark(str(path), "is missing or empty: no sweep has questions to steer on"),)
    spec, remarks = parse_steering(path, read_trait_text(path, WANTED))
    if spec.metric is not None and not isinstance(spec.metric.get("kind"), str):
        spec = spec.model_copy(update={"metric": None})
        remarks += (Remark(str(path), 'the metric needs a "kind", for example "language", and is not used'),)
    if spec.direction == "negative" and spec.metric is None:
        remarks += (Remark(str(path), _STEERED_AWAY),)
    return spec, remarks


def parse_steering(path: Path, text: str) -> tuple[SteeringSpec, tuple[Remark, ...]]:
    """The evaluation in a text: an object, or a bare list of questions.

    Blank and repeated questions and unknown fields are left out, each with a remark.

    Args:
        path: Its file, for messages.
        text: The content of the file.

    Raises:
        DatasetError: The text breaks a rule; the message names the line.
    """
    value = parse_json(text, str(path))
    try:
        spec = SteeringSpec.model_validate({"questions": value} if isinstance(value, list) else value)
    except ValidationError as error:
        key = str(next(iter(first_fault(error).loc), ""))
        raise DatasetError(f"{path}:{line_of(text, key)}: {field_error(error, FIELDS)}") from error
    remarks = []
    if isinstance(value, dict) and (unknown := sorted(value.keys() - SteeringSpec.model_fields.keys())):
        remarks.append(f"unknown fields are not used: {', '.join(map(repr, unknown))} (the fields are {FIELDS})")
    if not spec.questions:
        remarks.append("has no questions, so no sweep can steer on this trait")
    questions = list(dict.fromkeys(question for question in spec.questions if question.strip()))
    if n := len(spec.questions) - len(questions):
        remarks.append(f"{n} blank or repeated question{'s are' if n > 1 else ' is'} left out")
    spec = spec.model_copy(update={"questions": questions})
    return spec, tuple(Remark(str(path), remark) for remark in remarks)


def read_trait_text(path: Path, wanted: str = "") -> str:
    """The text of a file of a trait.

    Args:
        path: The file.
        wanted: The file's purpose, as `trait_core.text_files.read_text` takes it.

    Raises:
        DatasetError: It cannot be read, is not UTF-8 text, or still contains an example; the message names the line.
    """
    text = read_text(path, wanted)
    if PLACEHOLDER in text:
        number = text[: text.index(PLACEHOLDER)].count("\n") + 1
        raise DatasetError(f"{path}:{number}: still an example of new-trait: replace it with your own text")
    return text


def field_error(error: ValidationError, known: str) -> str:
    """One clause that says what is wrong with a JSON object; `known` names the fields it may have."""
    fault = first_fault(error)
    if fault.kind == "extra_forbidden":
        return f"unknown field {fault.where!r}: the fields are {known}"
    if fault.kind == "string_unicode":
        return f"{fault.where} holds half of a surrogate pair (\\ud800 to \\udfff), which is not a character"
    if fault.kind in {"string_too_short", "string_pattern_mismatch"}:
        return f"{fault.where} is empty"
    if fault.kind == "missing":
        return f"{fault.where} is missing" + (f": the fields are {known}" if len(fault.loc) == 1 else "")
    return fault.with_value() if fault.where else f"must be a JSON object with {known}"


def line_of(text: str, value: str, *, last: bool = False) -> int:
    """The line of the first (or last) occurrence of a JSON string; 1 if the file spells it differently."""
    written = json.dumps(value, ensure_ascii=False)
    at = text.rfind(written) if last else text.find(written)
    return text.count("\n", 0, max(at, 0)) + 1
