"""Reads and checks the two sides of a trait: contrastive scenarios, where line i of both files is one pair."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from trait_core.errors import DatasetError
from trait_core.text_files import parse_json
from trait_core.traits.files import MAX_CHARACTERS, Text, field_error, read_trait_text

Style = Literal["written", "instructed", "completions"]
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

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    prompt: Text
    response: Text | None = None
    system_prompt: Text | None = None


Pairs = tuple[tuple[Scenario, ...], tuple[Scenario, ...]]
"""The positive and the negative side; entry i of both is one pair."""


def read_pairs(paths: tuple[Path, Path]) -> tuple[Style, Pairs]:
    """Read and check both sides: `.jsonl` files are written or instructed, `.txt` files are completions.

    Raises:
        DatasetError: A side breaks a rule; the message names file and line.
    """
    raw_text = paths[0].suffix == ".txt"
    positive, negative = (_read_texts(path) if raw_text else _read_scenarios(path) for path in paths)
    style: Style = "completions" if raw_text else _common_style(paths, (positive, negative))
    _check_pairs(paths, positive, negative)
    return style, (tuple(positive), tuple(negative))


def _read_scenarios(path: Path) -> list[Scenario]:
    scenarios = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            scenarios.append(Scenario.model_validate(parse_json(line, str(path), number)))
        except ValidationError as error:
            raise DatasetError(f"{path}:{number}: {field_error(error, 'prompt, response, system_prompt')}") from error
    return scenarios


def _read_texts(path: Path) -> list[Scenario]:
    return [Scenario(prompt=line) for line in _lines(path)]


def _lines(path: Path) -> list[str]:
    """The file's lines without line ends; only the last one may be blank."""
    lines = read_trait_text(path, "write one scenario on each line").split("\n")
    if not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise DatasetError(f"{path}:{number}: a blank line: line i of both sides is one pair, so remove it")
        if len(line) > MAX_CHARACTERS:
            raise DatasetError(f"{path}:{number}: {len(line)} characters: at most {MAX_CHARACTERS} are allowed")
    if len(lines) < MIN_SCENARIOS:
        raise DatasetError(
            f"{path}: {len(lines)} scenarios are too few: write at least {MIN_SCENARIOS} (40 or more is good)"
        )
    return lines


# ---------------------------------------------------------------------------------------------------- rules


def _common_style(paths: tuple[Path, Path], sides: tuple[list[Scenario], list[Scenario]]) -> Style:
    """`written` if every scenario has a response, `instructed` if none has."""
    written = [
        (path, i, s.response is not None)
        for path, side in zip(paths, sides, strict=True)
        for i, s in enumerate(side, 1)
    ]
    n_written = sum(has for _, _, has in written)
    if n_written in {0, len(written)}:
        return "written" if n_written else "instructed"
    fewer_are_written = n_written * 2 < len(written)
    path, number, _ = next(entry for entry in written if entry[2] == fewer_are_written)
    raise DatasetError(
        f"{path}:{number}: mixed styles: {n_written} of {len(written)} scenarios have a response, and this one "
        f"{'has one' if fewer_are_written else 'has none'}: write a response for all of them, or for none"
    )


def _check_pairs(paths: tuple[Path, Path], positive: list[Scenario], negative: list[Scenario]) -> None:
    if len(positive) != len(negative):
        longer = 0 if len(positive) > len(negative) else 1
        raise DatasetError(
            f"{paths[longer]}:{min(len(positive), len(negative)) + 1}: has no partner: {paths[0].name} has "
            f"{len(positive)} scenarios, {paths[1].name} {len(negative)}; line i of both is one pair"
        )
    for path, side in zip(paths, (positive, negative), strict=True):
        _check_duplicates(path, side)
    prompts = {(s.system_prompt, s.prompt): i for i, s in enumerate(positive, 1)}
    by_prompt = {s.prompt: i for (i, s) in enumerate(positive, 1)}
    for number, (first, second) in enumerate(zip(positive, negative, strict=True), start=1):
        if first == second:
            raise DatasetError(
                f"{paths[1]}:{number}: is identical to {paths[0].name}:{number}: the two sides of a pair must differ"
            )
        other = prompts.get((second.system_prompt, second.prompt), by_prompt.get(second.prompt, number))
        if first.prompt != second.prompt and other != number:
            raise DatasetError(
                f"{paths[1]}:{number}: its prompt is that of {paths[0].name}:{other}: line i of both is one pair, and "
                "both replies of a scenario must be on the same side of the held-out split"
            )


def _check_duplicates(path: Path, side: list[Scenario]) -> None:
    seen: dict[tuple[str | None, str], int] = {}
    repeats: list[tuple[int, int]] = []
    for number, scenario in enumerate(side, start=1):
        key = (scenario.system_prompt, scenario.prompt)
        if key in seen:
            repeats.append((number, seen[key]))
        seen.setdefault(key, number)
    if repeats:
        number, first = repeats[0]
        raise DatasetError(
            f"{path}:{number}: repeats the prompt of line {first} ({len(repeats)} duplicates in the file): a "
            "scenario must occur once, or it is both fitted and tested"
        )
