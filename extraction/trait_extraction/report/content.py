"""Content of a report, read from vector files and the projections stored with them; needs no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from trait_core.errors import InvalidRequestError, VectorFileError
from trait_core.schema import LayerLens
from trait_core.vectors.file import VectorFile

from trait_extraction.data.datasets import TraitDataset
from trait_extraction.fitting.geometry import cosine
from trait_extraction.fitting.methods import METHODS
from trait_extraction.fitting.projections import FOLDER as PROJECTIONS
from trait_extraction.fitting.projections import HeldOutProjections, read_projections

MOST_TEXTS = 4
"""Number of held-out texts shown at either end."""


@dataclass(frozen=True)
class Neighbour:
    """Another vector of the same model.

    Args:
        name: Its trait, and its folder's style if that is not the default.
        cosine: Cosine of the two directions of the same method on the chosen layer.
    """

    name: str
    cosine: float


@dataclass(frozen=True)
class Text:
    """A held-out text and its projection.

    Args:
        side: `positive` or `negative`.
        value: Projection, centred, in half separations: +1 and -1 are the average training example of either side.
        prompt: Whole prompt.
        response: Whole response; None if the dataset has none (raw texts, and replies written by the model).
    """

    side: str
    value: float
    prompt: str
    response: str | None


@dataclass(frozen=True)
class TraitReport:
    """The report of one trait.

    Args:
        name: The trait, and `/style` if the folder's style is not the default.
        vectors: Method -> vector, in order of `METHODS`.
        held_out: Method -> positives and negatives at the chosen layer, centred, in half separations.
        neighbours: Other traits' vectors of the main method, largest |cosine| first.
        texts: Held-out texts of the main method, highest first; None if they are not known.
        texts_missing: Why they are not known.
        lens: The tokens that the main vector promotes and suppresses on the chosen layer; None if no service was asked.
    """

    name: str
    vectors: dict[str, VectorFile]
    held_out: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
    neighbours: list[Neighbour]
    texts: list[Text] | None
    texts_missing: str | None
    lens: LayerLens | None = None

    @property
    def main(self) -> VectorFile:
        """The vector for the parts of the page that show one method: that of the first method."""
        return next(iter(self.vectors.values()))

    @property
    def layer(self) -> int:
        """The chosen layer."""
        return self.main.metadata.chosen_layer


def vector_folders(root: Path) -> dict[str, Path]:
    """Name -> folder of vector files: `<trait>`, or `<trait>/<style>`.

    Raises:
        InvalidRequestError: The folder holds no vector files.
    """
    paths = [p for p in sorted(root.rglob("*.safetensors")) if p.parent.name != PROJECTIONS]
    found = {p.parent.relative_to(root).as_posix(): p.parent for p in paths if p.parent != root}
    if not found:
        raise InvalidRequestError(f"{root}: no vector files <trait>/<method>.safetensors in it", param="vectors")
    return found


def read_report(name: str, folders: Mapping[str, Path], dataset: TraitDataset | None) -> TraitReport:
    """Read one trait's vectors and compare them with the others'.

    Args:
        name: A key of `folders`.
        folders: Result of `vector_folders`.
        dataset: Source of the held-out texts; None if it cannot be read.

    Raises:
        InvalidRequestError: The name is unknown.
        VectorFileError: A file is damaged.
    """
    if name not in folders:
        raise InvalidRequestError(f"no vectors for {name!r}: there are {', '.join(folders)}", param="trait")
    vectors = _read_vectors(folders[name])
    main_method, main = next(iter(vectors.items()))
    projections = {
        method: kept
        for method, vector in vectors.items()
        if (kept := read_projections(folders[name] / f"{method}.safetensors", vector.metadata)) is not None
    }
    texts, missing = _texts(main, projections.get(main_method), dataset)
    return TraitReport(
        name=name,
        vectors=vectors,
        held_out={method: _scaled(vectors[method], kept, main) for method, kept in projections.items()},
        neighbours=_neighbours(name, main_method, main, folders),
        texts=texts,
        texts_missing=missing,
    )


def _read_vectors(folder: Path) -> dict[str, VectorFile]:
    found = {path.stem: VectorFile.load(path) for path in sorted(folder.glob("*.safetensors"))}
    order = [*METHODS, *(stem for stem in found if stem not in METHODS)]
    return {stem: found[stem] for stem in order if stem in found}


def _scaled(
    vector: VectorFile, kept: HeldOutProjections, main: VectorFile
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Held-out projections on the main vector's layer, centred, in half separations."""
    layer = main.metadata.chosen_layer
    at = vector.evidence(layer)
    half = at.separation / 2 or 1.0
    positive, negative = ((side.astype(np.float64) - at.centre) / half for side in kept.at(layer))
    return positive, negative


def _neighbours(name: str, method: str, main: VectorFile, folders: Mapping[str, Path]) -> list[Neighbour]:
    layer, own = main.metadata.chosen_layer, main.metadata
    found = []
    for other, folder in folders.items():
        path = folder / f"{method}.safetensors"
        if other == name or not path.is_file():
            continue
        vector = VectorFile.load(path)
        same = (vector.metadata.config_digest, vector.metadata.weights_digest) == (
            own.config_digest,
            own.weights_digest,
        )
        if same and layer in vector.directions:
            found.append(Neighbour(other, cosine(main.directions[layer], vector.directions[layer])))
    return sorted(found, key=lambda each: -abs(each.cosine))


def _texts(
    vector: VectorFile, kept: HeldOutProjections | None, dataset: TraitDataset | None
) -> tuple[list[Text] | None, str | None]:
    """Held-out texts of both sides ordered by projection, or the reason that there are none."""
    if kept is None:
        return None, "no projections are stored with the vector file: run `trait-extract run --force`"
    if dataset is None:
        return None, "the trait's dataset was not found: give --datasets"
    if dataset.digest != vector.metadata.dataset_digest:
        return None, "the dataset has changed since the vector was made: run `trait-extract run` again"
    if vector.metadata.elicitation is not None:
        return None, "the model wrote the replies and some were dropped: they are stored in .stages"
    if "left_out" in vector.metadata.method_options:
        return None, f"some scenarios have no token at {vector.metadata.positions} and were left out"
    positive, negative = _scaled(vector, kept, vector)
    for scenarios, at in ((dataset.positive, kept.scenarios), (dataset.negative, kept.negative_scenarios)):
        if len(scenarios) <= int(at.max()):
            raise VectorFileError(f"{dataset.trait}: projections of scenario {at.max()}, which does not exist")
    texts = [
        Text(side, float(value), scenarios[i].prompt, scenarios[i].response)
        for side, values, scenarios, at in (
            ("positive", positive, dataset.positive, kept.scenarios),
            ("negative", negative, dataset.negative, kept.negative_scenarios),
        )
        for i, value in zip(at.tolist(), values, strict=True)
    ]
    return sorted(texts, key=lambda text: -text.value), None
