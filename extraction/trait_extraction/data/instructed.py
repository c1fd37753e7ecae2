"""`instructed.json`: pairs of system prompts, one asking for a trait and one for its opposite.

    {"system_prompts": [{"positive": "...", "negative": "..."}, ...], "prompts": ["...", ...]}

Each prompt becomes one scenario: the same user message under both system prompts of one pair. Pairs take turns: prompt i
uses pair i modulo their number. Without `prompts`, the prompts of the written pairs are used; evaluation questions are not
allowed, since steering is tested on them. The model generates the replies (`trait_extraction.reading.generation`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from trait_core.errors import DatasetError
from trait_core.text_files import parse_json
from trait_core.traits import Remark
from trait_core.traits.files import Text, field_error, read_trait_text

from trait_extraction.data.left_out import select
from trait_extraction.data.scenarios import MIN_SCENARIOS, CheckedSides, Scenario, TwoSides

FILE_NAME = "instructed.json"
MIN_SYSTEM_PROMPTS = 5
"""Minimum number of pairs: with fewer, the vector is one of their wording."""


class SystemPrompts(BaseModel):
    """One pair of system prompts.

    Attributes:
        positive: System prompt that asks for the trait.
        negative: System prompt that asks for its opposite.
    """

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    positive: Text
    negative: Text


class _InstructedFile(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    system_prompts: Annotated[list[SystemPrompts], Field(min_length=MIN_SYSTEM_PROMPTS)]
    prompts: Annotated[list[Text], Field(min_length=MIN_SCENARIOS)] | None = None


def read_instructed(path: Path, written: CheckedSides | None) -> CheckedSides:
    """Read the scenarios of an `instructed.json`; they have no responses.

    Pairs of system prompts with a text that is on both sides or occurs before are left out, and so are prompts that occur before.

    Args:
        path: The file.
        written: The folder's written pairs, whose prompts are used if the file has none.

    Raises:
        DatasetError: The file breaks a rule, or too little of it remains; the message names file and line.
    """
    text = read_trait_text(path, 'write {"system_prompts": [...]}')
    try:
        value = parse_json(text, str(path))
        file = _InstructedFile.model_validate(value)
    except ValidationError as error:
        raise DatasetError(f"{path}: {field_error(error, 'system_prompts, prompts')}") from error
    asked, left_out = _system_prompts(path, file.system_prompts)
    if file.prompts is not None:
        prompts, numbers, repeated = _prompts(path, file.prompts)
        left_out += repeated
    elif written is not None:
        prompts, numbers = _written_prompts(written)
        left_out += written.left_out
    else:
        raise DatasetError(f"{path}: prompts are missing: write them here, or add written pairs to the folder")
    turns = [(prompt, asked[i % len(asked)]) for i, prompt in enumerate(prompts)]
    return CheckedSides(
        (
            tuple(Scenario(prompt=prompt, system_prompt=pair.positive) for prompt, pair in turns),
            tuple(Scenario(prompt=prompt, system_prompt=pair.negative) for prompt, pair in turns),
        ),
        (numbers, numbers),
        left_out=left_out,
        remarks=_unknown_fields(path, value),
    )


def system_prompts_of(sides: TwoSides, *, paired: bool) -> tuple[list[str], list[str]]:
    """The distinct system prompts of instructed scenarios, in order: of pairs, the distinct pairs."""
    asked = [[scenario.system_prompt or "" for scenario in side] for side in sides]
    if not paired:
        return list(dict.fromkeys(asked[0])), list(dict.fromkeys(asked[1]))
    pairs = list(dict.fromkeys(zip(*asked, strict=True)))
    return [positive for positive, _ in pairs], [negative for _, negative in pairs]


def _unknown_fields(path: Path, value: dict[str, Any]) -> tuple[Remark, ...]:
    found = {*value} - {*_InstructedFile.model_fields}
    found |= {key for pair in value["system_prompts"] for key in pair} - {*SystemPrompts.model_fields}
    named = ", ".join(map(repr, sorted(found)))
    return (Remark(str(path), f"unknown fields are not used: {named}"),) if found else ()


def _written_prompts(written: CheckedSides) -> tuple[list[str], tuple[int, ...]]:
    """The prompts of written scenarios with their numbers; of unpaired sides, those of both, each once."""
    if written.paired:
        return [scenario.prompt for scenario in written.sides[0]], written.numbers[0]
    scenarios, numbers = [s for side in written.sides for s in side], [n for side in written.numbers for n in side]
    first: dict[str, int] = {}
    for scenario, number in zip(scenarios, numbers, strict=True):
        first.setdefault(scenario.prompt, number)
    return list(first), tuple(first.values())


def _system_prompts(path: Path, pairs: Sequence[SystemPrompts]) -> tuple[list[SystemPrompts], tuple[str, ...]]:
    """The pairs that are used, and a sentence for each reason for which others are not."""
    texts = [(pair.positive, pair.negative) for pair in pairs]
    chosen = select(texts, texts)
    left_out = chosen.sentences(f"{path}: system_prompts", "pair", range(1, len(pairs) + 1))
    _check_number(path, "system_prompts", len(chosen.kept), MIN_SYSTEM_PROMPTS, left_out)
    return [pairs[i] for i in chosen.kept], left_out


def _prompts(path: Path, prompts: Sequence[str]) -> tuple[list[str], tuple[int, ...], tuple[str, ...]]:
    """The prompts that are used, their numbers from 1, and a sentence if others are not."""
    first: dict[str, int] = {}
    for number, prompt in enumerate(prompts, start=1):
        first.setdefault(prompt, number)
    left_out: tuple[str, ...] = ()
    if n_repeated := len(prompts) - len(first):
        repeated = next(prompt for i, prompt in enumerate(prompts, start=1) if first[prompt] != i)
        left_out = (f"{path}: {n_repeated} of the prompts are left out, since they occur before: {repeated[:60]!r}",)
    _check_number(path, "prompts", len(first), MIN_SCENARIOS, left_out)
    return list(first), tuple(first.values()), left_out


def _check_number(path: Path, field: str, n: int, least: int, left_out: Sequence[str]) -> None:
    if n < least:
        raise DatasetError(f"{path}: {field}: {n} remain, and {least} are needed at least. {'; '.join(left_out)}")
