"""The monitored directions of one request, as they travel: a long list that many requests send, and that is read once."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from trait_core.schema import MAX_LAYERS, MAX_MONITORED, RESID_POST, FiniteFloat, HookPoint

from trait_service.engine.sites import HOOK_POINTS

DIRECTION_PATTERN = r"^[0-9a-f]{64}$"

LISTS_KEPT = 64
"""Lists that are read once while they are in use: requests that monitor the same directions share one."""


class MonitorColumn(BaseModel):
    """One monitored direction on one layer.

    Attributes:
        at: The hook point whose tensor is projected.
        direction: sha256 (hex) of the direction's float32 bytes: its row in the vector bank.
        cosine: The projection over the norm of the stream.
        above: A generated token whose projection is above it crosses the bound; residual units, or the cosine.
        below: The same, below.
        stop: A crossed bound ends the request before the token that this position would produce.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    layer: Annotated[int, Field(ge=0, lt=MAX_LAYERS)]
    direction: Annotated[str, Field(pattern=DIRECTION_PATTERN)]
    at: HookPoint = RESID_POST
    cosine: bool = False
    above: FiniteFloat | None = None
    below: FiniteFloat | None = None
    stop: bool = False


_LIST = TypeAdapter(Annotated[list[MonitorColumn], Field(min_length=1, max_length=MAX_MONITORED)])


@dataclass(frozen=True)
class MonitorColumns:
    """Monitored directions, in the order of the projections. Two of them are equal if their texts are.

    Args:
        text: JSON list of `MonitorColumn`, without the fields that have their default.
        directions: sha256 (hex) of each column's direction.
        layer: `(n_columns,)` int64.
        at: `(n_columns,)` int64: the hook point of each, as `HOOK_POINTS` numbers them.
        cosine: `(n_columns,)` bool.
        bounded: `(n_bounded,)` int64: columns with a bound.
        above: `(n_bounded,)` float64: their upper bounds; infinity where there is none.
        below: `(n_bounded,)` float64: their lower bounds; minus infinity where there is none.
        stop: `(n_bounded,)` bool: their bounds end the request.
        key: Digest of layers, hook points, directions and cosines: lists that differ in their bounds alone share it.
    """

    text: str
    directions: tuple[str, ...] = field(compare=False, repr=False)
    layer: np.ndarray = field(compare=False, repr=False)
    at: np.ndarray = field(compare=False, repr=False)
    cosine: np.ndarray = field(compare=False, repr=False)
    bounded: np.ndarray = field(compare=False, repr=False)
    above: np.ndarray = field(compare=False, repr=False)
    below: np.ndarray = field(compare=False, repr=False)
    stop: np.ndarray = field(compare=False, repr=False)
    key: bytes = field(compare=False, repr=False)

    @classmethod
    def of(cls, columns: object) -> Self:
        """From a list of `MonitorColumn`, or of dictionaries with their fields.

        Raises:
            ValueError: They are not, or there are none, or more than `MAX_MONITORED`.
        """
        return cls.read(_LIST.dump_json(_LIST.validate_python(columns), exclude_defaults=True).decode())

    @classmethod
    @lru_cache(maxsize=LISTS_KEPT)
    def read(cls, text: str) -> Self:
        """From their text.

        Raises:
            ValueError: It is not a valid list of columns.
        """
        columns = _LIST.validate_json(text)
        bounded = [i for i, column in enumerate(columns) if column.above is not None or column.below is not None]
        limits = [(columns[i].above, columns[i].below) for i in bounded]
        layer = np.array([column.layer for column in columns], dtype=np.int64)
        at = np.array([HOOK_POINTS.index(column.at) for column in columns], dtype=np.int64)
        cosine = np.array([column.cosine for column in columns], dtype=np.bool_)
        directions = tuple(column.direction for column in columns)
        return cls(
            text,
            directions,
            layer,
            at,
            cosine,
            np.array(bounded, dtype=np.int64),
            np.array([np.inf if above is None else above for above, _ in limits], dtype=np.float64),
            np.array([-np.inf if below is None else below for _, below in limits], dtype=np.float64),
            np.array([columns[i].stop for i in bounded], dtype=np.bool_),
            hashlib.sha256(layer.tobytes() + at.tobytes() + cosine.tobytes() + "".join(directions).encode()).digest(),
        )

    def __len__(self) -> int:
        return len(self.directions)

    def __iter__(self) -> Iterator[MonitorColumn]:
        return iter(_LIST.validate_json(self.text))

    def first_crossing(self, values: np.ndarray) -> tuple[int, int] | None:
        """The first row of projections with one out of bounds, and the first such column there; NaN crosses every bound.

        Args:
            values: `(n_positions, n_columns)` float32.

        Returns:
            Row, and place in `bounded`; None if all are inside.
        """
        bounded = values[:, self.bounded]
        outside = ~((bounded <= self.above) & (bounded >= self.below))
        if not outside.any():
            return None
        row, place = divmod(int(outside.argmax()), len(self.bounded))
        return row, place
