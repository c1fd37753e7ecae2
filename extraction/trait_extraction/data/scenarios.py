"""Reads and checks the two sides of a trait: contrastive scenarios, where line i of both files is one pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from trait_core.errors import DatasetError
from trait_core.text_files import parse_json
from trait_core.traits.files import MAX_CHARACTERS, Text, field_error, read_trait_text

from trait_extraction.data.left_out import select

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


@dataclass(frozen=True)
class CheckedPairs:
    """Pairs that are used, and where they are in their files.

    Args:
        pairs: Both sides.
        numbers: Number of each pair in its files, from 1: a line, or a scenario.
        left_out: One sentence for each reason for which other pairs of the files are not used.
    """

    pairs: Pairs
    numbers: tuple[int, ...]
    left_out: tuple[str, ...] = ()


def read_pairs(paths: tuple[Path, Path]) -> tuple[Style, CheckedPairs]:
    """Read and check both sides: `.jsonl` files are written or instructed, `.txt` files are completions.

    Raises:
        DatasetError: A side breaks a rule, or too few pairs remain; the message names file and line.
    """
    raw_text = paths[0].suffix == ".txt"
    positive, negative = (tuple(_read_texts(path) if raw_text else _read_scenarios(path)) for path in paths)
    style: Style = "completions" if raw_text else _common_style(paths, (positive, negative))
    _check_lengths(paths, positive, negative)
    if not raw_text:
        _check_prompts(paths, positive, negative)
    return style, without_unusable(CheckedPairs((positive, negative), tuple(range(1, len(positive) + 1))), paths)


def without_unusable(given: CheckedPairs, paths: tuple[Path, Path], *, whole: bool = False) -> CheckedPairs:
    """Leave out the pairs with a scenario that is on both sides, and those that repeat an earlier prompt.

    Args:
        given: The pairs.
        paths: Their files.
        whole: Leave out only those that repeat an earlier scenario as a whole.

    Raises:
        DatasetError: Every pair is the same on both sides, or too few remain.
    """
    positive, negative = given.pairs
    texts = list(zip(positive, negative, strict=True))
    prompts = [((p.system_prompt, p.prompt), (n.system_prompt, n.prompt)) for p, n in texts]
    chosen = select(texts, texts if whole else prompts)
    where = f"{paths[0].parent}: {paths[0].name} and {paths[1].name}"
    if len(chosen.shared) == len(texts):
        raise DatasetError(
            f"{paths[1]}: has the same texts as {paths[0].name}: the two sides must differ; is one a copy of the other?"
        )
    left_out = (*given.left_out, *chosen.sentences(where, "line", given.numbers))
    if len(chosen.kept) < MIN_SCENARIOS:
        raise DatasetError(
            f"{paths[0]}: {len(chosen.kept)} scenarios remain, which are too few: write at least {MIN_SCENARIOS}. "
            + "; ".join(left_out)
        )
    pairs = tuple(positive[i] for i in chosen.kept), tuple(negative[i] for i in chosen.kept)
    return CheckedPairs(pairs, tuple(given.numbers[i] for i in chosen.kept), left_out)


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


def _common_style(paths: tuple[Path, Path], sides: Pairs) -> Style:
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


def _check_lengths(paths: tuple[Path, Path], positive: Sequence[Scenario], negative: Sequence[Scenario]) -> None:
    if len(positive) != len(negative):
        longer = 0 if len(positive) > len(negative) else 1
        raise DatasetError(
            f"{paths[longer]}:{min(len(positive), len(negative)) + 1}: has no partner: {paths[0].name} has "
            f"{len(positive)} scenarios, {paths[1].name} {len(negative)}; line i of both is one pair"
        )


def _check_prompts(paths: tuple[Path, Path], positive: Sequence[Scenario], negative: Sequence[Scenario]) -> None:
    """Refuse files whose lines do not belong together: the prompt of one line is that of another on the other side."""
    first_line: dict[str, int] = {}
    for number, scenario in enumerate(positive, start=1):
        first_line.setdefault(scenario.prompt, number)
    for number, (first, second) in enumerate(zip(positive, negative, strict=True), start=1):
        if first.prompt != second.prompt and (other := first_line.get(second.prompt)) is not None:
            raise DatasetError(
                f"{paths[1]}:{number}: its prompt is that of {paths[0].name}:{other}: line i of both is one pair, and "
                "both replies of a scenario must be on the same side of the held-out split"
            )
