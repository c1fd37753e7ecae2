"""The styles that a trait folder has, and the scenarios of one of them.

| style | for | its files | where the replies come from |
|---|---|---|---|
| `written` | any model with a chat template | `positive.jsonl`, `negative.jsonl` with responses | they are written |
| `instructed` | instruct models | `instructed.json`, or both JSONL files without responses | the model, told to show or to avoid the trait |
| `completions` | base models | `positive.txt`, `negative.txt`; else derived from the written pairs | raw text cut in mid-sentence |
"""

from dataclasses import dataclass
from pathlib import Path

from trait_core.errors import DatasetError

from trait_extraction.data.completions import derive_completions
from trait_extraction.data.instructed import FILE_NAME, read_instructed
from trait_extraction.data.scenarios import SIDES, Pairs, Style, read_pairs

STYLES: tuple[Style, ...] = ("written", "instructed", "completions")
"""In the order in which a folder's default is looked for."""


@dataclass(frozen=True)
class Sides:
    """Both sides of a trait in one style.

    Args:
        style: The style.
        pairs: Positive and negative side.
        origin: The files that they stand in.
        derived: They were made from the written pairs, not written in this style.
    """

    style: Style
    pairs: Pairs
    origin: tuple[Path, Path]
    derived: bool = False


def styles_of(folder: Path) -> list[Style]:
    """The styles that a folder has files for, its default first. Derived completions are not among them.

    Raises:
        DatasetError: It has files for none, or a side without its other.
    """
    found: list[Style] = []
    if (chat := _two_files(folder, ".jsonl")) is not None:
        style, _ = read_pairs(chat)
        if style == "instructed" and (folder / FILE_NAME).is_file():
            raise DatasetError(f"{chat[0]}: has no responses, and {FILE_NAME} stands beside it: keep one of the two")
        found.append(style)
    if (folder / FILE_NAME).is_file():
        found.append("instructed")
    if _two_files(folder, ".txt") is not None:
        found.append("completions")
    if not found:
        names = ", ".join(path.name for path in _side_files(folder)) or "neither"
        raise DatasetError(
            f"{folder}: write positive.jsonl and negative.jsonl, positive.txt and negative.txt, or {FILE_NAME} "
            f"(found {names})"
        )
    return found


def read_sides(folder: Path, style: Style | None = None) -> Sides:
    """The scenarios of one style.

    Args:
        folder: A trait folder.
        style: None takes the folder's default.

    Raises:
        DatasetError: The folder has not that style, or a file breaks a rule; the message names file and line.
    """
    available = styles_of(folder)
    wanted = style or available[0]
    chat, raw = _two_files(folder, ".jsonl"), _two_files(folder, ".txt")
    if wanted == "completions" and raw is not None:
        return Sides(wanted, read_pairs(raw)[1], raw)
    written = read_pairs(chat)[1] if chat is not None and "written" in available else None
    if wanted == "completions" and chat is not None and written is not None:
        return Sides(wanted, derive_completions(written, chat), chat, derived=True)
    if wanted not in available:
        raise DatasetError(f"{folder}: has no {wanted} style: it has {', '.join(available)}. {_HOW[wanted]}")
    instructed = folder / FILE_NAME
    if wanted == "instructed" and instructed.is_file():
        return Sides(wanted, read_instructed(instructed, written), (instructed, instructed))
    assert chat is not None, "styles_of found it"
    return Sides(wanted, read_pairs(chat)[1], chat)


_HOW: dict[Style, str] = {
    "written": "Write positive.jsonl and negative.jsonl with responses",
    "instructed": f"Write {FILE_NAME}",
    "completions": "Write positive.txt and negative.txt",
}


def _two_files(folder: Path, suffix: str) -> tuple[Path, Path] | None:
    paths = folder / f"{SIDES[0]}{suffix}", folder / f"{SIDES[1]}{suffix}"
    standing = [path.is_file() for path in paths]
    if any(standing) and not all(standing):
        names = ", ".join(path.name for path in _side_files(folder))
        raise DatasetError(f"{folder}: {paths[standing.index(False)].name} is missing (found {names})")
    return paths if all(standing) else None


def _side_files(folder: Path) -> list[Path]:
    return [path for suffix in (".jsonl", ".txt") for side in SIDES if (path := folder / f"{side}{suffix}").is_file()]
