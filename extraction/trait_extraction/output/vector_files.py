"""The vector files of one trait: those that exist, and those that a run writes."""

import logging
from dataclasses import dataclass
from pathlib import Path

from trait_core.errors import VectorFileError
from trait_core.storage import write_atomically
from trait_core.vectors.file import VectorFile

from trait_extraction.data.datasets import TraitDataset
from trait_extraction.fitting.projections import HeldOutProjections, projections_path
from trait_extraction.fitting.provenance import Provenance

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """A vector on its way to its file.

    Args:
        vector: The file's content.
        held_out: Projections to write beside it; None keeps those that exist.
        reused: The file exists already, made from the same inputs.
    """

    vector: VectorFile
    held_out: HeldOutProjections | None = None
    reused: bool = False


@dataclass(frozen=True)
class VectorFolder:
    """The folder of a dataset's vector files: `<out>/<trait>/`, or `<out>/<trait>/<style>/` if the style is not the default.

    Args:
        path: The folder.
        suffix: The end of the files' names, before `.safetensors`.
    """

    path: Path
    suffix: str = ""

    @classmethod
    def of(cls, out: Path, dataset: TraitDataset, suffix: str = "") -> "VectorFolder":
        """The folder of a dataset's vectors below `out`."""
        return cls(out / dataset.trait if dataset.default_style else out / dataset.trait / dataset.style, suffix)

    def file(self, method: str) -> Path:
        """The file of a method's vector."""
        return self.path / f"{method}{self.suffix}.safetensors"

    def existing(self, provenance: Provenance) -> VectorFile | None:
        """The vector with this provenance, if its file exists."""
        path = self.file(provenance.method)
        if not path.is_file():
            return None
        try:
            vector = VectorFile.load(path)
        except VectorFileError as error:
            logger.warning("a vector file cannot be read, and is made again: %s", error)
            return None
        return vector if provenance.made(vector.metadata) else None

    def store(self, method: str, made: Made) -> tuple[Path, bytes]:
        """Write a vector file, and its held-out projections beside it, unless the file is reused.

        Returns:
            `(path, content)` of the vector file.
        """
        path, data = self.file(method), made.vector.to_bytes()
        if made.held_out is not None:
            write_atomically(projections_path(path), made.held_out.to_bytes())
        if not made.reused:
            write_atomically(path, data)
        return path, data


@dataclass(frozen=True)
class Extracted:
    """One vector file of a run.

    Args:
        path: The file.
        vector: Its content.
        sha256: Its identity.
        reused: It existed already, made from the same inputs.
        registered: Its name at the service; None if it was not registered.
        name: Its name in the result database, if it was not registered.
    """

    path: Path
    vector: VectorFile
    sha256: str
    reused: bool
    registered: str | None
    name: str
