"""The traits that a command line chooses: all, some, or a category; what cannot be used is listed with its reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from trait_core.console import EXIT_FAILED, EXIT_PARTIAL, complain
from trait_core.errors import DatasetError, InvalidRequestError
from trait_core.traits import (
    TraitPlace,
    default_traits_folder,
    find_category,
    find_place,
    grouped,
    trait_places,
)

from trait_extraction.data.datasets import TraitDataset, load_trait
from trait_extraction.data.scenarios import Style
from trait_extraction.data.styles import styles_of

Datasets = Annotated[
    Path | None,
    typer.Option(
        "--datasets",
        "--traits",
        help="Folder of `<category>/<trait>`, at any depth. Default: ./datasets/traits if it exists, else the installed "
        "traits.",
    ),
]
TraitNames = Annotated[
    list[str] | None,
    typer.Option(help="Trait, `<category>/<trait>`, or `<category>/` for all of a category; may be repeated."),
]


@dataclass(frozen=True)
class Unusable:
    """A trait that cannot be used.

    Args:
        trait: Its path below the folder of traits.
        reason: The fault that makes it unusable.
    """

    trait: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """The chosen traits.

    Args:
        datasets: Those that can be used.
        unusable: The others.
    """

    datasets: list[TraitDataset] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)

    def warn(self) -> None:
        """Print what is left out of the datasets, and what of their files is not used; equal remarks once."""
        sentences = dict.fromkeys(sentence for dataset in self.datasets for sentence in dataset.left_out)
        for sentence in [*sentences, *grouped(remark for dataset in self.datasets for remark in dataset.remarks)]:
            complain(sentence, label="warning")

    def finish(self, failed: Sequence[Unusable] = ()) -> None:
        """List what could not be used, and exit with 3 if the rest could be, or with 1 if nothing could.

        Args:
            failed: Traits that were loaded, and failed afterwards.

        Raises:
            typer.Exit: Something could not be used.
        """
        listed = [*self.unusable, *failed]
        for one in listed:
            complain(f"{one.trait}: {one.reason}", label="not used")
        if listed:
            raise typer.Exit(EXIT_PARTIAL if len(self.datasets) > len(failed) else EXIT_FAILED)


def select(root: Path | None, traits: Sequence[str] | None, style: Style | None, *, every: bool) -> Selection:
    """Load the chosen traits in one style, the default of each if it is None; `root` None takes the default folder.

    Raises:
        InvalidRequestError: Neither traits nor all are chosen, or both.
        DatasetError: A name means no trait, or several.
    """
    return _loaded(chosen_places(root, traits, every=every), lambda place: [load_place(place, style)])


def select_styles(root: Path | None, traits: Sequence[str] | None, style: Style | None) -> Selection:
    """Load the chosen traits, all if none is named, in every style that they have, or in one.

    Raises:
        DatasetError: A name means no trait, or several.
    """
    places = chosen_places(root, traits, every=not traits)
    return _loaded(places, lambda p: [load_place(p, one) for one in ([style] if style else styles_of(p.folder))])


def chosen_places(root: Path | None, traits: Sequence[str] | None, *, every: bool) -> list[TraitPlace]:
    """The places of the named traits and categories, or of all traits; `root` None takes the default folder.

    Raises:
        InvalidRequestError: Neither is given, or both.
        DatasetError: A name means no trait, or several.
    """
    if every == bool(traits):
        raise InvalidRequestError("give --trait NAME (once or more) or --all", param="trait")
    root = root or default_traits_folder()
    if every:
        return trait_places(root)
    named = [
        found
        for name in traits or ()
        for found in (find_category(root, name.rstrip("/")) if name.endswith("/") else [find_place(root, name)])
    ]
    return list(dict.fromkeys(named))


def load_place(place: TraitPlace, style: Style | None) -> TraitDataset:
    """The dataset of a trait, with the name that the folder of traits gives it.

    Raises:
        DatasetError: A file that extraction needs is missing or breaks a rule.
    """
    return load_trait(place.folder, style, name=place.name)


def _loaded(places: Sequence[TraitPlace], load: Callable[[TraitPlace], list[TraitDataset]]) -> Selection:
    selection = Selection()
    for place in places:
        try:
            selection.datasets.extend(load(place))
        except DatasetError as error:
            selection.unusable.append(Unusable(place.label, str(error)))
    return selection
