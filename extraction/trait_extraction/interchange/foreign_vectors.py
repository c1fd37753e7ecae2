"""The content of another tool's file, before anything is assumed about it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from trait_core.errors import VectorFileError

MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_VECTORS = 1024

UNNUMBERED = -1
"""Key of a file's only vector, if the file gives it no number."""

_NUMBER = re.compile(r"^(?:(?:layers?|direction)[._]?)?(\d{1,4})$")


@dataclass(frozen=True)
class ForeignVectors:
    """Vectors by the numbers that their file gives them.

    Args:
        kind: Kind of file, for messages.
        vectors: Number -> `(d,)` float32 of any length, unchanged; `UNNUMBERED` if there is no number.
        facts: The file's own description of itself.
    """

    kind: str
    vectors: dict[int, npt.NDArray[np.float32]]
    facts: dict[str, str] = field(default_factory=dict)


def number_of(name: object) -> int:
    """The number in a tensor's name: `12`, `layer.12`, `layer_12`, `layers.12`, `direction.12`.

    Raises:
        VectorFileError: The name has no number.
    """
    if isinstance(name, int) and not isinstance(name, bool) and 0 <= name < 10_000:
        return name
    match = _NUMBER.match(name) if isinstance(name, str) else None
    if match is None:
        raise VectorFileError(f"{str(name)[:80]!r} is not a layer: names are 12, layer.12, layer_12 or direction.12")
    return int(match.group(1))


def number_all(named: Iterable[tuple[object, npt.NDArray[np.float32]]]) -> dict[int, npt.NDArray[np.float32]]:
    """Number -> vector, `(d,)` float32 each, as given.

    Raises:
        VectorFileError: A name without a number, or two with the same; too many.
    """
    numbered: dict[int, npt.NDArray[np.float32]] = {}
    for name, vector in named:
        number = number_of(name)
        if number in numbered:
            raise VectorFileError(f"two vectors have the number {number}: the second is {str(name)[:80]!r}")
        numbered[number] = vector
    if not 0 < len(numbered) <= MAX_VECTORS:
        raise VectorFileError(f"{len(numbered)} vectors: a file must hold 1 to {MAX_VECTORS}")
    return numbered
