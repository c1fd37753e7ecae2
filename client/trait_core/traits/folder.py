"""Finds the folder of the traits, and one trait in it."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from trait_core.errors import DatasetError

LOCAL = Path("datasets/traits")
"""The traits of a project, relative to the working directory."""


def default_traits_folder() -> Path:
    """The folder of traits to use where none is given.

    Returns:
        `datasets/traits` in the working directory if it exists, else the traits of the installation: the wheel's package
        data, or the checkout's `datasets/traits` of an editable install.

    Raises:
        DatasetError: None of them exists; the message lists the places.
    """
    places = [LOCAL, *_installed()]
    for place in places:
        if place.is_dir():
            return place
    looked = ", ".join(str(place.absolute()) for place in places)
    raise DatasetError(f"no folder of traits: give one that holds <category>/<trait> (looked in {looked})")


def list_traits(root: Path) -> list[Path]:
    """Trait folders under `root`, in order of category and name.

    Raises:
        DatasetError: `root` is not a folder, or holds no trait.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder of traits: give one that holds <category>/<trait>")
    folders = sorted(p for p in root.glob("*/*") if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise DatasetError(f"{root}: no trait folders <category>/<trait> in it")
    return folders


def find_trait(root: Path, name: str, holding: str | None = None) -> Path:
    """The folder of a trait, by its name or as `<category>/<trait>`.

    Args:
        root: Folder of `<category>/<trait>`.
        name: The trait.
        holding: Ignore trait folders without this file; None takes them all.

    Raises:
        DatasetError: There is no such trait, or more than one.
    """
    folders = list_traits(root)
    named = [p for p in folders if name in (p.name, f"{p.parent.name}/{p.name}")]
    found = [p for p in named if holding is None or (p / holding).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        labels = " or ".join(f"{p.parent.name}/{p.name}" for p in found)
        raise DatasetError(f"{root}: trait {name!r} is in several categories: {labels}")
    if named:
        raise DatasetError(f"{named[0]}: {holding} is missing")
    raise DatasetError(f"{root}: no trait {name!r}: {_hint(root, name, folders)}")


def _hint(root: Path, name: str, folders: Sequence[Path]) -> str:
    names = sorted({p.name for p in folders})
    close = get_close_matches(name, names, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    elsewhere = [place for place in _installed() if place.resolve() != root.resolve() and any(place.glob(f"*/{name}"))]
    installed = f"; {elsewhere[0]} has it" if elsewhere else ""
    return f"{guess}it holds {', '.join(names)}{installed}"


def _installed() -> list[Path]:
    """The folders of an installation's traits: package data, then `datasets/traits` of a checkout."""
    places = [Path(str(resources.files(__package__))) / "data"]
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "pyproject.toml").is_file():
        places.append(checkout / LOCAL)
    return places
