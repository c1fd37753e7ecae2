"""The sets of monitored directions that live requests use: each is stored once, however many requests share it."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Self

import numpy as np

from trait_service.engine.buffers import VectorBank
from trait_service.engine.monitor_columns import MonitorColumns
from trait_service.engine.sites import Sites


@dataclass(frozen=True, eq=False)
class DirectionSet:
    """Monitored directions ordered by layer, so that those of a layer follow one another. Equal to itself only.

    Args:
        layer: `(n_directions,)` int64, ascending: the site of each.
        bank_row: `(n_directions,)` int64.
        cosine: `(n_directions,)` bool: the projection is divided by the norm of the stream.
        place: `(n_columns,)` int64: where each of the request's columns is in this order.
        key: Its content.
        n_dropped: `VectorBank.n_dropped` when the bank's rows were read.
    """

    layer: np.ndarray
    bank_row: np.ndarray
    cosine: np.ndarray
    place: np.ndarray
    key: bytes = b""
    n_dropped: int = 0

    @classmethod
    def of(
        cls, layer: np.ndarray, bank_row: np.ndarray, cosine: np.ndarray, key: bytes = b"", n_dropped: int = 0
    ) -> Self:
        """From the columns in the request's order, `(n_columns,)` each."""
        order = np.argsort(layer, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return cls(layer[order], bank_row[order], cosine[order], place, key, n_dropped)

    def __len__(self) -> int:
        return len(self.layer)

    @cached_property
    def parts(self) -> dict[int, slice]:
        """Each layer's directions."""
        begins = np.flatnonzero(np.diff(self.layer, prepend=-1)).tolist()
        return {int(self.layer[a]): slice(a, b) for a, b in pairwise([*begins, len(self)])}

    def per_layer(self, n_layers: int) -> np.ndarray:
        """`(n_layers,)` int64: how many of them each site has."""
        return np.bincount(self.layer, minlength=n_layers)

    @cached_property
    def _in_order(self) -> bool:
        return bool((self.place[1:] > self.place[:-1]).all())

    def columns(self, values: np.ndarray) -> np.ndarray:
        """`(n_tokens, n_directions)` or wider rows, as the request ordered its columns."""
        values = values[:, : len(self)]
        return values if self._in_order else values[:, self.place]


class DirectionSets:
    """The sets in use.

    Args:
        bank: Their directions.
        sites: Sites of the engine.
    """

    def __init__(self, bank: VectorBank, sites: Sites) -> None:
        self._bank = bank
        self._sites = sites
        self._of_key: dict[bytes, DirectionSet] = {}
        self._uses: Counter[DirectionSet] = Counter()

    def __len__(self) -> int:
        return len(self._uses)

    def acquire(self, columns: MonitorColumns) -> DirectionSet:
        """The set of a request's columns, which other requests may use as well; give it back by `release`.

        Raises:
            SteeringFailedError: A site that the engine lacks, or a direction that is not in the bank.
        """
        found = self._of_key.get(columns.key)
        # A dropped direction may be in another row by now.
        if found is None or found.n_dropped != self._bank.n_dropped:
            found = self._of_key[columns.key] = self._made(columns)
        self._uses[found] += 1
        return found

    def release(self, used: DirectionSet) -> None:
        """Note that one request less uses a set; the last one frees it."""
        self._uses[used] -= 1
        if not self._uses[used]:
            del self._uses[used]
            if self._of_key.get(used.key) is used:
                del self._of_key[used.key]

    def _made(self, columns: MonitorColumns) -> DirectionSet:
        site = self._sites.of_all(columns.at, columns.layer)
        rows = np.array([self._bank.row(direction) for direction in columns.directions], dtype=np.int64)
        return DirectionSet.of(site, rows, columns.cosine, columns.key, self._bank.n_dropped)
