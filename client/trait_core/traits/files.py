"""Reads the two files of a trait that are not scenarios: `definition.txt` and `steering.json`. Errors name file and line."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trait_core.errors import DatasetError, first_fault
from trait_core.text_files import parse_json, read_text

DEFINITION, STEERING = "definition.txt", "steering.json"
MAX_CHARACTERS = 1_000_000
"""Maximum length of a message on the wire."""
PLACEHOLDER = "REPLACE ME"
"""Marks every example of `trait-extract new-trait`; a file that contains it is not valid."""

Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS, pattern=r"\S")]


class SteeringSpec(BaseModel):
    """`steering.json`: how the trait is evaluated.

    Attributes:
        questions: Prompts that a sweep steers on; extraction never sees them.
        direction: The side that is the trait.
        metric: The lexical metric as JSON: `kind` and its options (`trait_client.scoring.lexical`).
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    questions: Annotated[list[Text], Field(min_length=1)]
    direction: Literal["positive", "negative"]
    metric: dict[str, Any] | None = None


class _LenientSpec(SteeringSpec):
    model_config = ConfigDict(extra="ignore")

    questions: Annotated[list[Annotated[str, Field(min_length=1, max_length=100_000)]], Field(min_length=1)]
    direction: Literal["positive", "negative"] = "positive"


def read_definition(folder: Path, *, strict: bool) -> str:
    """The judge's rubric of a trait, `definition.txt`, without surrounding white space.

    Args:
        folder: The trait's folder.
        strict: Refuse the example of `new-trait`.

    Raises:
        DatasetError: The file is missing, empty, not UTF-8, or still an example.
    """
    wanted = "write the judge's 0-100 rubric: what 0, 50 and 100 look like"
    return read_trait_text(folder / DEFINITION, wanted, examples=not strict).strip()


def read_steering(folder: Path, *, strict: bool) -> SteeringSpec:
    """The evaluation of a trait, `steering.json`.

    Args:
        folder: The trait's folder.
        strict: Check the file as its author: unknown fields, a missing `direction`, blank questions, a metric without
            `kind` and the examples of `new-trait` are errors. Otherwise unknown fields are ignored, and `direction`
            defaults to `positive`.

    Raises:
        DatasetError: The file is missing or breaks a rule; the message names the line.
    """
    path = folder / STEERING
    text = read_trait_text(path, 'write {"questions": [...], "direction": "positive"}', examples=not strict)
    model = SteeringSpec if strict else _LenientSpec
    try:
        spec = model.model_validate(parse_json(text, str(path)))
    except ValidationError as error:
        fault = first_fault(error)
        key = str(next(iter(fault.loc), ""))
        reason = field_error(error, "questions, direction, metric")
        if (fault.kind, key) == ("missing", "direction"):
            reason = 'direction is missing: add "direction": "positive" (or "negative"), the side that shows the trait'
        raise DatasetError(f"{path}:{line_of(text, key)}: {reason}") from error
    if strict and spec.metric is not None and not isinstance(spec.metric.get("kind"), str):
        raise DatasetError(f'{path}:{line_of(text, "metric")}: metric needs a "kind", for example "language"')
    questions = spec.questions
    if repeated := next((question for i, question in enumerate(questions) if question in questions[:i]), None):
        raise DatasetError(f"{path}:{line_of(text, repeated)}: question {repeated[:60]!r} occurs more than once")
    return spec


def read_trait_text(path: Path, wanted: str = "", *, examples: bool = False) -> str:
    """The text of a file of a trait.

    Args:
        path: The file.
        wanted: The file's purpose, as `trait_core.text_files.read_text` takes it.
        examples: Accept examples of `new-trait` (`PLACEHOLDER`) that nobody has replaced yet.

    Raises:
        DatasetError: It cannot be read, is not UTF-8 text, or still contains an example; the message names the line.
    """
    text = read_text(path, wanted)
    if PLACEHOLDER in text and not examples:
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
