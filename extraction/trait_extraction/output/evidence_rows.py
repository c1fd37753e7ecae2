"""Rows of the result database about vectors: their evidence, and the cosines between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from trait_client.results import ResultStore
from trait_client.results.rows import CosineRow, Row, VectorRow
from trait_core.vectors.file import VectorFile

from trait_extraction.fitting.geometry import cosine


@dataclass(frozen=True)
class StoredVector:
    """A vector for the database.

    Args:
        name: Its name in the registry, or `<trait>.<method>`.
        sha256: Digest of its file.
        vector: Its content.
    """

    name: str
    sha256: str
    vector: VectorFile


def write_evidence(results: ResultStore, vectors: Sequence[StoredVector]) -> None:
    """Store vectors, and the cosine of every two vectors of one model on each layer that both have.

    Cosines to other traits are stored here and not in the files: a file's sha256 must not change when another trait is
    extracted.

    Raises:
        ResultsError: Another process writes the database, or the file is not a database.
    """
    rows: list[Row] = [VectorRow.of(v.name, v.sha256, v.vector.metadata) for v in vectors]
    unique = {v.sha256: v for v in vectors}
    rows += [
        row for first, second in combinations(sorted(unique), 2) for row in _cosines(unique[first], unique[second])
    ]
    with results.writer() as writer:
        writer.write(rows)


def _cosines(first: StoredVector, second: StoredVector) -> list[CosineRow]:
    if first.vector.metadata.config_digest != second.vector.metadata.config_digest:
        return []
    a, b = first.vector.directions, second.vector.directions
    return [
        CosineRow(first.sha256, second.sha256, layer, cosine(a[layer], b[layer]))
        for layer in sorted(a.keys() & b.keys())
    ]
