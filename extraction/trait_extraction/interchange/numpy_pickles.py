"""numpy arrays inside a file of `torch.save`, read without numpy's own pickle functions.

torch's restricted reader (`weights_only`) calls nothing that is not allowed by name. The names that numpy writes are allowed here,
and each stands for a class of this file that keeps what it is given. An array is then built from a copy of its bytes after every
value was checked, so that a hostile file reaches neither `numpy.ndarray.__setstate__` nor anything else in C.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from trait_core.errors import VectorFileError

_TYPES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})


class ArrayType:
    """Stands for `numpy.ndarray`, which is only named."""


class PickledType:
    """Stands for `numpy.dtype(code, align, copy)`."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: object) -> None:
        """Keep the byte order: the second value of numpy's state."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]

    def checked(self) -> np.dtype[Any]:
        """The type, if it is a plain number's.

        Raises:
            VectorFileError: It is another one.
        """
        if not isinstance(self.code, str) or self.code not in _TYPES:
            raise VectorFileError(
                f"holds a numpy array of type {str(self.code)[:40]!r}: arrays of plain numbers are read"
            )
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


class PickledArray:
    """Stands for `numpy._core.multiarray._reconstruct`, whose state numpy sets afterwards."""

    def __init__(self, *_: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        """Keep `(version, shape, type, Fortran order, bytes)`."""
        self.state = state

    def array(self) -> npt.NDArray[Any]:
        """The array.

        Raises:
            VectorFileError: The state does not describe one.
        """
        match self.state:
            case (int(), tuple() as shape, PickledType() as kind, bool() as fortran, data):
                dtype = kind.checked()
            case _:
                raise VectorFileError("holds a numpy array whose state is not one that numpy writes")
        if not isinstance(data, bytes) or any(type(size) is not int or size < 0 for size in shape):
            raise VectorFileError("holds a numpy array whose shape or bytes are not those that numpy writes")
        n_values = math.prod(shape)
        if n_values * dtype.itemsize != len(data):
            raise VectorFileError(f"holds a numpy array of shape {list(shape)[:8]} with {len(data)} bytes")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy()


class PickledNumber:
    """Stands for `numpy._core.multiarray.scalar(type, bytes)`."""

    def __init__(self, kind: object = None, data: object = b"", *_: object) -> None:
        self.kind, self.data = kind, data

    def number(self) -> Any:
        """The number as Python's.

        Raises:
            VectorFileError: Type and bytes do not describe one.
        """
        parts = PickledArray()
        parts.state = (1, (), self.kind, False, self.data)
        return parts.array().item()


STANDS_FOR: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (ArrayType, "numpy.ndarray"),
    (PickledType, "numpy.dtype"),
    (PickledArray, "numpy._core.multiarray._reconstruct"),
    (PickledArray, "numpy.core.multiarray._reconstruct"),
    (PickledNumber, "numpy._core.multiarray.scalar"),
    (PickledNumber, "numpy.core.multiarray.scalar"),
]
"""Our class, and the name in the file that it stands for: numpy 2 and numpy 1."""
