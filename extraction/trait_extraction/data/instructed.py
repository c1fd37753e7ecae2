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
from trait_core.traits.files import Text, field_error, line_of, read_trait_text

from trait_extraction.data.scenarios import MIN_SCENARIOS, Pairs, Scenario

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


def read_instructed(path: Path, written: Pairs | None) -> Pairs:
    """Read the scenarios of an `instructed.json`; they have no responses.

    Args:
        path: The file.
        written: The folder's written pairs, whose prompts are used if the file has none.

    Raises:
        DatasetError: The file breaks a rule; the message names file and line.
    """
    text = read_trait_text(path, 'write {"system_prompts": [...]}')
    try:
        file = _InstructedFile.model_validate(parse_json(text, str(path)))
    except ValidationError as error:
        raise DatasetError(f"{path}: {field_error(error, 'system_prompts, prompts')}") from error
    _check_system_prompts(path, text, file.system_prompts)
    prompts = file.prompts
    if prompts is None:
        if written is None:
            raise DatasetError(f"{path}: prompts are missing: write them here, or add written pairs to the folder")
        prompts = [scenario.prompt for scenario in written[0]]
    elif repeated := next((p for i, p in enumerate(prompts) if p in prompts[:i]), None):
        raise DatasetError(f"{path}:{line_of(text, repeated, last=True)}: prompt {repeated[:60]!r} occurs twice")
    turns = [file.system_prompts[i % len(file.system_prompts)] for i in range(len(prompts))]
    asked = list(zip(prompts, turns, strict=True))
    return (
        tuple(Scenario(prompt=prompt, system_prompt=pair.positive) for prompt, pair in asked),
        tuple(Scenario(prompt=prompt, system_prompt=pair.negative) for prompt, pair in asked),
    )


def system_prompt_pairs(pairs: Pairs) -> list[tuple[str, str]]:
    """The distinct pairs of system prompts of instructed scenarios, in order."""
    found = [(p.system_prompt or "", q.system_prompt or "") for p, q in zip(*pairs, strict=True)]
    return list(dict.fromkeys(found))


def _check_system_prompts(path: Path, text: str, pairs: Sequence[SystemPrompts]) -> None:
    seen: set[str] = set()
    for pair in pairs:
        for prompt in (pair.positive, pair.negative):
            if prompt in seen:
                line = line_of(text, prompt, last=True)
                raise DatasetError(f"{path}:{line}: system prompt {prompt[:60]!r} occurs twice")
            seen.add(prompt)
