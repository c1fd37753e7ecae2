"""The content of another tool's file, before anything is assumed about it."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_VECTORS = 1024

UNNUMBERED = -1
"""Key of a file's only vector, if the file gives it no number."""

Numbering = Literal["block", "hidden-state"]
"""Meaning of a file's layer numbers (`trait_extraction.interchange.numbering`)."""


@dataclass(frozen=True)
class ForeignVectors:
    """Vectors by the numbers that their file gives them.

    Args:
        kind: Kind of file, for messages.
        vectors: Number -> `(d,)` float32 of any length, unchanged; `UNNUMBERED` if there is no number.
        facts: The file's own description of itself.
        numbering: Meaning of the numbers if the file's names say it, as `blocks.12.hook_resid_post` does; else None.
    """

    kind: str
    vectors: dict[int, npt.NDArray[np.float32]]
    facts: dict[str, str] = field(default_factory=dict)
    numbering: Numbering | None = None
