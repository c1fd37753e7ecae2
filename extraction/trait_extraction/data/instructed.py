"""`instructed.json`: pairs of system prompts, one asking for a trait and one for its opposite.

    {"system_prompts": [{"positive": "...", "negative": "..."}, ...], "prompts": ["...", ...]}

Each prompt becomes one scenario: the same user message under both system prompts of one pair. Pairs take turns: prompt i
uses pair i modulo their number. Without `prompts`, the prompts of the written pairs are used; evaluation questions are not
allowed, since steering is tested on them. The model generates the replies (`trait_extraction.reading.generation`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from trait_core.errors import DatasetError
from trait_core.text_files import parse_json
from trait_core.traits.files import Text, field_error, read_trait_text

from trait_extraction.data.left_out import select
from trait_extraction.data.scenarios import MIN_SCENARIOS, CheckedPairs, Pairs, Scenario

FILE_NAME = "instructed.json"
MIN_SYSTEM_PROMPTS = 5
"""Minimum number of pairs: with fewer, the vector is one of their wording."""


class SystemPrompts(BaseModel):
    """One pair of system prompts.

    Attributes:
        positive: System prompt that asks for the trait.
        negative: System prompt that asks for its opposite.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    positive: Text
    negative: Text


class _InstructedFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    system_prompts: Annotated[list[SystemPrompts], Field(min_length=MIN_SYSTEM_PROMPTS)]
    prompts: Annotated[list[Text], Field(min_length=MIN_SCENARIOS)] | None = None


def read_instructed(path: Path, written: CheckedPairs | None) -> CheckedPairs:
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
        file = _InstructedFile.model_validate(parse_json(text, str(path)))
    except ValidationError as error:
        raise DatasetError(f"{path}: {field_error(error, 'system_prompts, prompts')}") from error
    asked, left_out = _system_prompts(path, file.system_prompts)
    if file.prompts is not None:
        prompts, numbers, repeated = _prompts(path, file.prompts)
        left_out += repeated
    elif written is not None:
        prompts, numbers = [scenario.prompt for scenario in written.pairs[0]], written.numbers
        left_out += written.left_out
    else:
        raise DatasetError(f"{path}: prompts are missing: write them here, or add written pairs to the folder")
    turns = [(prompt, asked[i % len(asked)]) for i, prompt in enumerate(prompts)]
    return CheckedPairs(
        (
            tuple(Scenario(prompt=prompt, system_prompt=pair.positive) for prompt, pair in turns),
            tuple(Scenario(prompt=prompt, system_prompt=pair.negative) for prompt, pair in turns),
        ),
        numbers,
        left_out,
    )


def system_prompt_pairs(pairs: Pairs) -> list[tuple[str, str]]:
    """The distinct pairs of system prompts of instructed scenarios, in order."""
    found = [(p.system_prompt or "", q.system_prompt or "") for p, q in zip(*pairs, strict=True)]
    return list(dict.fromkeys(found))


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
