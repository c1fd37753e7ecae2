"""Prompt sets of a run: files and folders of them, with ids that are unique among all their prompts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trait_client.prompt_sets.forms import SUFFIXES, read_set
from trait_client.prompt_sets.prompts import SetPrompt
from trait_core.errors import DatasetError


@dataclass(frozen=True)
class PromptSets:
    """The prompts of one or several sets.

    Attributes:
        name: Names of the files and folders, for the table `runs`.
        prompts: All prompts, in order; one that several files hold is there once.
        left_out: Files of a folder that could not be read, as sentences that name them.
    """

    name: str
    prompts: list[SetPrompt]
    left_out: tuple[str, ...] = ()


def read_prompts(path: str | Path, *, raw: bool = False) -> list[SetPrompt]:
    """Read the prompts of one set, or of all sets in a folder.

    Args:
        path: The file, in one of the forms of `trait_client.prompt_sets.forms`, or a folder.
        raw: Turns are raw text instead of a user's turn.

    Raises:
        DatasetError: A file cannot be read, or a prompt is malformed; the message names file and line.
    """
    sets = read_prompt_sets([Path(path)], raw=raw)
    if sets.left_out:
        raise DatasetError(sets.left_out[0])
    return sets.prompts


def read_prompt_sets(paths: Sequence[Path], *, raw: bool = False) -> PromptSets:
    """Read prompt sets; a file of a folder that cannot be used is left out, with its reason.

    A set is named after its file, without the ending. Where two files have one name, the folders are put before it.

    Raises:
        DatasetError: A file that was named cannot be read, an id is used twice for different texts, or there is no prompt.
    """
    files = list({path.resolve(): (path, root) for root in paths for path in _files(root)}.values())
    stems = Counter(path.stem for path, _ in files)
    prompts: dict[str, SetPrompt] = {}
    left_out: list[str] = []
    for path, root in files:
        name = path.stem if stems[path.stem] == 1 else _within(path, root)
        try:
            found = read_set(path, name, raw=raw)
            _check_ids(path, found, prompts)
        except DatasetError as error:
            if path == root:
                raise
            left_out.append(str(error))
            continue
        for prompt in found:
            prompts.setdefault(prompt.prompt_id, prompt)
    if not prompts:
        raise DatasetError(left_out[0] if left_out else "no prompt set is given")
    return PromptSets(", ".join(dict.fromkeys(_label(path) for path in paths)), list(prompts.values()), tuple(left_out))


def _files(root: Path) -> Iterator[Path]:
    if not root.is_dir() or root.suffix.lower() in SUFFIXES:
        yield root
        return
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    if not found:
        raise DatasetError(f"{root}: holds no prompt set: no {', '.join(SUFFIXES)} file is in it")
    yield from found


def _within(path: Path, root: Path) -> str:
    """Name of a file by its place in the folder that was given; of a file that was given, by its own folder."""
    start = root if path != root else path.absolute().parent.parent
    return path.absolute().relative_to(start.absolute()).with_suffix("").as_posix()


def _label(path: Path) -> str:
    return path.resolve().name if path.is_dir() else path.name


def _check_ids(path: Path, found: Sequence[SetPrompt], earlier: dict[str, SetPrompt]) -> None:
    for prompt in found:
        other = earlier.get(prompt.prompt_id)
        if other is not None and other.content() != prompt.content():
            raise DatasetError(
                f"{path}: the id {prompt.prompt_id!r} names another prompt in the set {other.prompt_set!r}: "
                "give each its own id, or run the sets one by one"
            )
