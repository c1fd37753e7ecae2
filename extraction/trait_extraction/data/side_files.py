"""Reads the two files of a trait's sides: JSON lines, a JSON list, or one raw text on each line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from trait_core.errors import DatasetError
from trait_core.text_files import parse_json
from trait_core.traits import Remark
from trait_core.traits.files import MAX_CHARACTERS, field_error, read_trait_text

from trait_extraction.data.scenarios import MIN_SCENARIOS, SIDES, CheckedSides, Scenario, Style, without_unusable

SUFFIXES = (".jsonl", ".json", ".txt")
"""Forms of a side's file, in order of precedence; `.txt` is raw text."""

FIELDS = ", ".join(Scenario.model_fields)
LISTS = ("scenarios", "prompts")
"""Names under which an object may hold the list of a `.json` file."""


@dataclass(frozen=True)
class _Side:
    scenarios: tuple[Scenario, ...]
    numbers: tuple[int, ...]
    remarks: tuple[Remark, ...]


def side_paths(folder: Path, *, raw: bool) -> tuple[Path, Path] | None:
    """The files of both sides, raw texts or chats; None if the folder has neither.

    Raises:
        DatasetError: It has one side only.
    """
    for suffix in SUFFIXES:
        if (suffix == ".txt") != raw:
            continue
        paths = folder / f"{SIDES[0]}{suffix}", folder / f"{SIDES[1]}{suffix}"
        exists = [path.is_file() for path in paths]
        if all(exists):
            return paths
        if any(exists):
            names = ", ".join(path.name for path in side_files(folder))
            raise DatasetError(f"{folder}: {paths[exists.index(False)].name} is missing (found {names})")
    return None


def side_files(folder: Path) -> list[Path]:
    """The files of sides that exist in a folder."""
    return [path for suffix in SUFFIXES for side in SIDES if (path := folder / f"{side}{suffix}").is_file()]


def read_two_sides(paths: tuple[Path, Path]) -> tuple[Style, CheckedSides]:
    """Read and check both sides: `.txt` files are completions, others are written or instructed.

    Sides of as many scenarios are paired by line, unless their prompts show that the lines do not belong together.

    Raises:
        DatasetError: A side breaks a rule, or too few scenarios remain; the message names file and line.
    """
    raw = paths[0].suffix == ".txt"
    sides = [_read_side(path) for path in paths]
    both, numbers = (sides[0].scenarios, sides[1].scenarios), (sides[0].numbers, sides[1].numbers)
    style: Style = "completions" if raw else _common_style(paths, sides)
    reason = _not_paired(paths, sides, raw=raw)
    remarks = tuple(remark for side in sides for remark in side.remarks)
    if reason is not None:
        remarks += (Remark(str(paths[0].parent), f"{reason}: the two sides are read as unpaired"),)
    given = CheckedSides(both, numbers, paired=reason is None, remarks=remarks)
    return style, without_unusable(given, paths)


def _read_side(path: Path) -> _Side:
    text = read_trait_text(path, "write one scenario on each line")
    if path.suffix == ".json":
        entries = list(enumerate(_listed(path, parse_json(text, str(path))), start=1))
        n_blank = 0
    else:
        lines = list(enumerate(text.removesuffix("\n").split("\n"), start=1))
        filled = [(number, line) for number, line in lines if line.strip()]
        n_blank = len(lines) - len(filled)
        read = (
            (lambda _, line: line)
            if path.suffix == ".txt"
            else (lambda number, line: parse_json(line, str(path), number))
        )
        entries = [(number, read(number, line)) for number, line in filled]
    if len(entries) < MIN_SCENARIOS:
        raise DatasetError(
            f"{path}: {len(entries)} scenarios are too few: write at least {MIN_SCENARIOS} (40 or more is good)"
        )
    scenarios = tuple(_scenario(path, number, value) for number, value in entries)
    unknown = sorted(
        {key for _, value in entries if isinstance(value, dict) for key in value} - {*Scenario.model_fields}
    )
    remarks = []
    if unknown:
        remarks.append(f"unknown fields are not used: {', '.join(map(repr, unknown))} (the fields are {FIELDS})")
    if n_blank:
        remarks.append("blank lines are skipped")
    return _Side(scenarios, tuple(number for number, _ in entries), tuple(Remark(str(path), one) for one in remarks))


def _scenario(path: Path, number: int, value: Any) -> Scenario:
    """The scenario of one entry: an object, or a text alone."""
    if path.suffix == ".txt" and len(value) > MAX_CHARACTERS:
        raise DatasetError(f"{path}:{number}: {len(value)} characters: at most {MAX_CHARACTERS} are allowed")
    try:
        return Scenario.model_validate({"prompt": value} if isinstance(value, str) else value)
    except ValidationError as error:
        raise DatasetError(f"{path}:{number}: {field_error(error, FIELDS)}") from error


def _listed(path: Path, value: Any) -> list[Any]:
    """The entries of a `.json` file: a list, or an object that holds one."""
    if isinstance(value, dict):
        value = next((value[name] for name in LISTS if isinstance(value.get(name), list)), value)
    if not isinstance(value, list):
        raise DatasetError(f"{path}:1: must be a JSON list of scenarios with {FIELDS}")
    return value


# ---------------------------------------------------------------------------------------------------- rules


def _common_style(paths: tuple[Path, Path], sides: Sequence[_Side]) -> Style:
    """`written` if every scenario has a response, `instructed` if none has."""
    written = [
        (path, number, scenario.response is not None)
        for path, side in zip(paths, sides, strict=True)
        for number, scenario in zip(side.numbers, side.scenarios, strict=True)
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


def _not_paired(paths: tuple[Path, Path], sides: Sequence[_Side], *, raw: bool) -> str | None:
    """The reason for which line i of both files is not one pair; None if it is.

    The prompt of one line that is another line's on the other side shows that the lines are in different orders.
    """
    positive, negative = sides
    if len(positive.scenarios) != len(negative.scenarios):
        n = [len(side.scenarios) for side in sides]
        return f"{paths[0].name} has {n[0]} scenarios and {paths[1].name} {n[1]}"
    first_line: dict[str, int] = {}
    for number, scenario in zip(positive.numbers, positive.scenarios, strict=True):
        first_line.setdefault(scenario.prompt, number)
    for first, second, number in zip(positive.scenarios, negative.scenarios, negative.numbers, strict=True):
        if not raw and first.prompt != second.prompt and (other := first_line.get(second.prompt)) is not None:
            return f"the prompt of {paths[1].name}:{number} is that of {paths[0].name}:{other}"
    return None
