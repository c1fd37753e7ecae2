"""Finds the folder of the traits, and one trait in it."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from trait_core.errors import DatasetError
from trait_core.traits.files import DEFINITION, STEERING

LOCAL = Path("datasets/traits")
"""The traits of a project, relative to the working directory."""

SIDE_FILES = {
    *(f"{side}{suffix}" for side in ("positive", "negative") for suffix in (".jsonl", ".json", ".txt")),
    "instructed.json",
}
"""The files of scenarios."""

MAX_NAMES = 40
"""Maximum number of traits that a message lists."""


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


@dataclass(frozen=True)
class TraitPlace:
    """A trait in a folder of traits.

    Args:
        folder: Its folder.
        label: Its path below the folder of traits, `<category>/<trait>`.
        category: The path without the last part; for a trait directly in the folder of traits, that folder's name.
        name: Name of its vectors: the folder's name, or `<category>.<trait>` where another category has a trait of that
            name. It depends on the folder of traits alone, not on what is chosen from it.
    """

    folder: Path
    label: str
    category: str
    name: str

    def is_called(self, name: str) -> bool:
        """Tell whether `name` means this trait: its name, or the end of its path."""
        return name == self.name or f"/{self.label}".endswith(f"/{name}")


def trait_places(root: Path) -> list[TraitPlace]:
    """The traits under `root`, at any depth, in order of category and name.

    A trait is a folder with a file of scenarios (`SIDE_FILES`), or with another file of a trait and no trait below it. `root`
    may be the folder of categories, one category, or one trait.

    Raises:
        DatasetError: `root` is not a folder, or holds no trait.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder of traits: give one that holds <category>/<trait>")
    paths = [(folder, folder.relative_to(root).parts) for folder in _traits_in(root, set())]
    if not paths:
        raise DatasetError(
            f"{root}: no trait folders <category>/<trait> in it: a trait has positive and negative files"
        )
    names = Counter(folded_name(folder.absolute().name) for folder, _ in paths)
    places = []
    for folder, parts in paths:
        own = folder.absolute().name
        shared = names[folded_name(own)] > 1 and len(parts) > 1
        name = ".".join(map(folded_name, parts)) if shared else folded_name(own)
        category = "/".join(parts[:-1]) or folder.absolute().parent.name
        places.append(TraitPlace(folder, "/".join(parts) or own, category, name))
    return places


def list_traits(root: Path) -> list[Path]:
    """Trait folders under `root`, in order of category and name.

    Raises:
        DatasetError: `root` is not a folder, or holds no trait.
    """
    return [place.folder for place in trait_places(root)]


def find_trait(root: Path, name: str, holding: str | None = None) -> Path:
    """The folder of a trait, by its name or as `<category>/<trait>`.

    Args:
        root: Folder of `<category>/<trait>`.
        name: The trait; `<category>.<trait>`, the name of its vectors where two categories have it, is understood too.
        holding: Ignore trait folders without this file; None takes them all.

    Raises:
        DatasetError: There is no such trait, or more than one.
    """
    return find_place(root, name, holding).folder


def find_place(root: Path, name: str, holding: str | None = None) -> TraitPlace:
    """The place of a trait, as `find_trait` finds it.

    Raises:
        DatasetError: There is no such trait, or more than one.
    """
    places = trait_places(root)
    named = [place for place in places if place.is_called(name)]
    found = [place for place in named if holding is None or (place.folder / holding).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        labels = " or ".join(place.label for place in found)
        raise DatasetError(f"{root}: trait {name!r} is in several categories: {labels}")
    if named:
        raise DatasetError(f"{named[0].folder}: {holding} is missing")
    raise DatasetError(f"{root}: no trait {name!r}: {_hint(root, name, places)}")


def find_category(root: Path, name: str) -> list[TraitPlace]:
    """The traits of a category, at any depth.

    Args:
        root: Folder of `<category>/<trait>`.
        name: The category's path below `root`.

    Raises:
        DatasetError: It holds no trait.
    """
    places = trait_places(root)
    found = [place for place in places if place.label.startswith(f"{name}/")]
    if not found:
        categories = ", ".join(dict.fromkeys(place.category for place in places))
        raise DatasetError(f"{root}: no category {name!r}: there are {categories}")
    return found


def _traits_in(folder: Path, seen: set[Path]) -> list[Path]:
    """The trait folders at or below a folder; `seen` holds the folders that were entered, since links may lead back."""
    if folder.resolve() in seen:
        return []
    seen.add(folder.resolve())
    entries = sorted(folder.iterdir())
    files = {entry.name for entry in entries if entry.is_file()}
    if files & SIDE_FILES:
        return [folder]
    below = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    found = [trait for entry in below for trait in _traits_in(entry, seen)]
    return found or ([folder] if files & {DEFINITION, STEERING} else [])


def folded_name(name: str) -> str:
    """The name in lower case, with `_` for every character that a vector's name may not have."""
    return re.sub(r"[^a-z0-9_.-]", "_", name.lower()).lstrip("_.-")


def _hint(root: Path, name: str, places: Sequence[TraitPlace]) -> str:
    names = sorted({place.folder.name for place in places})
    close = get_close_matches(name, names, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    if any(place.label.startswith(f"{name}/") for place in places):
        guess = f"{name}/ is a category, whose traits are all meant by `{name}/`; "
    elsewhere = [place for place in _installed() if place.resolve() != root.resolve() and any(place.glob(f"*/{name}"))]
    installed = f"; {elsewhere[0]} has it" if elsewhere else ""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{guess}it holds {', '.join(names[:MAX_NAMES])}{more}{installed}"


def _installed() -> list[Path]:
    """The folders of an installation's traits: package data, then `datasets/traits` of a checkout."""
    places = [Path(str(resources.files(__package__))) / "data"]
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "pyproject.toml").is_file():
        places.append(checkout / LOCAL)
    return places
