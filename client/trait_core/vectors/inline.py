"""Inline vectors: directions as they travel with a request."""

import base64
import binascii
from typing import Any

import numpy as np
import numpy.typing as npt

from trait_core.errors import VectorFileError
from trait_core.schema.given import InlineType, InlineVector
from trait_core.vectors.arrays import readable

_ON_THE_WIRE: dict[InlineType, str] = {"float32": "<f4", "float16": "<f2"}


def inline_vector(array: Any, dtype: InlineType = "float32") -> InlineVector:
    """An array as an inline vector.

    Args:
        array: `(d_model,)` numbers: a list, a numpy array, or a torch tensor of any float type on any device.
        dtype: Type of the numbers on the wire. They are scaled first, so that float16 neither overflows nor vanishes.

    Raises:
        VectorFileError: The array has several dimensions, is zero, or holds a value that is not finite.
    """
    given = np.asarray(readable(array), dtype=np.float64)
    if given.ndim != 1:
        raise VectorFileError(
            f"a direction has one dimension, (d_model,); this array has the shape {list(given.shape)}"
        )
    data = unit_direction(given).astype(_ON_THE_WIRE[dtype]).tobytes()
    return InlineVector(inline=base64.b64encode(data).decode("ascii"), dtype=dtype)


def direction_of(vector: InlineVector, d_model: int) -> npt.NDArray[np.float32]:
    """The unit direction of an inline vector, `(d_model,)` float32.

    Raises:
        VectorFileError: It is not base64, has another length, is zero, or holds a value that is not finite.
    """
    kind = np.dtype(_ON_THE_WIRE[vector.dtype])
    try:
        data = base64.b64decode(vector.inline, validate=True)
    except binascii.Error as error:
        raise VectorFileError(f"the inline vector is not base64: {error}") from error
    if len(data) != d_model * kind.itemsize:
        raise VectorFileError(
            f"the inline vector holds {len(data)} bytes, which is {len(data) / kind.itemsize:g} {vector.dtype} values; "
            f"this model's directions have {d_model} ({d_model * kind.itemsize} bytes)"
        )
    return unit_direction(np.frombuffer(data, dtype=kind).astype(np.float64)).astype(np.float32)


def unit_direction(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The numbers scaled to length 1.

    Raises:
        VectorFileError: They are all zero, or one is not finite.
    """
    if not np.isfinite(numbers).all():
        raise VectorFileError(
            f"the vector holds a value that is not finite, at index {int(np.argmin(np.isfinite(numbers)))}"
        )
    largest = float(np.abs(numbers).max(initial=0.0))
    if largest == 0:
        raise VectorFileError("the vector is zero: it has no direction")
    scaled = numbers / largest  # so that no square overflows or vanishes
    return scaled / np.linalg.norm(scaled)
