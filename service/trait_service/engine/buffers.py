"""Buffers of fixed shape that the operation reads: they never run out, and CUDA graphs may hold their addresses.

Each has a numpy side that the host writes and a tensor on the device. On the CPU both are the same memory.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from trait_client.errors import SteeringFailedError

from trait_service.engine.arithmetic import LINEAR, Coefficients

NO_ROW = -1


class Mirrored:
    """A numpy array and its copy on the device.

    Args:
        shape: Of both.
        dtype: numpy dtype.
        device: On the CPU the tensor shares the array's memory, and `flush` does nothing.
        fill: Initial value.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type, device: torch.device, fill: float = 0) -> None:
        host = torch.full(shape, fill, dtype=torch.from_numpy(np.zeros(1, dtype)).dtype)
        self._host = host.pin_memory() if device.type == "cuda" else host
        self.array: np.ndarray = self._host.numpy()
        self.tensor = self._host if device.type == "cpu" else self._host.to(device)

    def flush(self, n: int | None = None) -> None:
        """Copy the first `n` entries (None: all) to the device.

        The copy runs beside the host: the engine must have ended the step before the array is written again, which
        holds because asynchronous scheduling is refused.
        """
        if self.tensor is not self._host:
            self.tensor[:n].copy_(self._host[:n], non_blocking=True)


class VectorBank:
    """`(n_rows, d_model)` float32 unit directions, content-addressed.

    Args:
        n_rows: Directions that fit.
        d_model: Width.
        device: Where the rows live.
    """

    def __init__(self, n_rows: int, d_model: int, device: torch.device) -> None:
        self.d_model = d_model
        self.rows = torch.zeros((n_rows, d_model), dtype=torch.float32, device=device)
        self._row_of: dict[str, int] = {}
        self._free = list(range(n_rows - 1, -1, -1))

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, digest: str) -> bool:
        return digest in self._row_of

    def put(self, digest: str, data: bytes) -> None:
        """Store a direction.

        Args:
            digest: sha256 (hex) of `data`.
            data: `d_model` little-endian float32 numbers.

        Raises:
            SteeringFailedError: Another width, a value that is not finite, or no row is free.
        """
        if digest in self._row_of:
            return
        direction = np.frombuffer(data, dtype="<f4")
        if direction.shape != (self.d_model,):
            raise SteeringFailedError(f"a direction of {direction.size} numbers does not fit d_model {self.d_model}")
        if not np.isfinite(direction).all():
            raise SteeringFailedError(f"direction {digest[:12]} holds a value that is not finite")
        if not self._free:
            raise SteeringFailedError(f"the vector bank is full: {self.rows.shape[0]} directions are in use")
        row = self._free.pop()
        self.rows[row].copy_(torch.from_numpy(direction.astype(np.float32)))
        self._row_of[digest] = row

    def drop(self, digest: str) -> None:
        """Free a direction's row; one that is not there is already free."""
        row = self._row_of.pop(digest, None)
        if row is not None:
            self._free.append(row)

    def row(self, digest: str) -> int:
        """The row of a direction.

        Raises:
            SteeringFailedError: The direction is not in the bank.
        """
        if digest not in self._row_of:
            raise SteeringFailedError(f"direction {digest[:12]} is not in the vector bank")
        return self._row_of[digest]


@dataclass(frozen=True)
class TableEntry:
    """One term of one request, as the operation reads it.

    Args:
        bank_row: Row of its direction.
        numbers: Mode, a and b.
        start: First absolute position it touches.
        stop: One past the last.
    """

    layer: int
    bank_row: int
    numbers: Coefficients
    start: int
    stop: int
    preserve_norm: bool = False


class LayerTable(NamedTuple):
    """One layer of the request table: `(n_rows, n_terms)` bank rows, `(..., 2)` numbers, `(..., 4)` rules.

    `terms_used` is the most terms that a row has here; `additive` says that all of them are plain additions.
    """

    vector: torch.Tensor
    numbers: torch.Tensor
    rules: torch.Tensor
    terms_used: int
    additive: bool


class RequestTable:
    """What each live request does on each layer: `n_layers x n_rows x n_terms` entries.

    Written only when batch membership changes. A row belongs to one request while it is in the batch.
    """

    MODE, START, STOP, PRESERVE_NORM = range(4)

    def __init__(self, n_layers: int, n_rows: int, n_terms: int, device: torch.device) -> None:
        shape = (n_layers, n_rows, n_terms)
        self.n_terms = n_terms
        self.vector = Mirrored(shape, np.int32, device, fill=NO_ROW)
        self.numbers = Mirrored((*shape, 2), np.float32, device)
        self.rules = Mirrored((*shape, 4), np.int32, device)
        self._dirty = False
        self.terms_used = [0] * n_layers
        self.additive = [True] * n_layers

    def write(self, row: int, entries: list[TableEntry]) -> None:
        """Replace a row.

        Raises:
            SteeringFailedError: More terms on one layer than the table holds.
        """
        self.clear(row)
        used: dict[int, int] = {}
        for entry in entries:
            k = used.get(entry.layer, 0)
            if k == self.n_terms:
                self.clear(row)
                raise SteeringFailedError(
                    f"more than {self.n_terms} terms on layer {entry.layer}: start the service with more terms_per_layer"
                )
            used[entry.layer] = k + 1
            at = (entry.layer, row, k)
            self.vector.array[at] = entry.bank_row
            self.numbers.array[at] = (entry.numbers.a, entry.numbers.b)
            self.rules.array[at] = (entry.numbers.mode, entry.start, entry.stop, entry.preserve_norm)

    def on(self, layer: int) -> "LayerTable":
        """One layer of the table, for the operation."""
        return LayerTable(
            self.vector.tensor[layer],
            self.numbers.tensor[layer],
            self.rules.tensor[layer],
            self.terms_used[layer],
            self.additive[layer],
        )

    def clear(self, row: int) -> None:
        """Make a row do nothing."""
        self.vector.array[:, row] = NO_ROW
        self._dirty = True

    def flush(self) -> None:
        """Bring the device up to date after a change of membership; does nothing where no row was written."""
        if not self._dirty:
            return
        self._dirty = False
        for mirrored in (self.vector, self.numbers, self.rules):
            mirrored.flush()
        present = self.vector.array != NO_ROW
        self.terms_used = present.sum(-1).max(-1).tolist()
        plain = (
            (self.rules.array[..., self.MODE] == LINEAR)
            & (self.numbers.array[..., 1] == 0)
            & (self.rules.array[..., self.PRESERVE_NORM] == 0)
        )
        self.additive = (plain | ~present).all(axis=(1, 2)).tolist()


class CaptureRows:
    """Running sums of pools being filled: `(n_layers, n_rows, d_model)` float32, and the sums of token norms.

    Args:
        n_rows: Pools that fit at once, over all requests.
    """

    def __init__(self, n_layers: int, n_rows: int, d_model: int, device: torch.device) -> None:
        self.sums = torch.zeros((n_layers, n_rows, d_model), dtype=torch.float32, device=device)
        self.norms = torch.zeros((n_layers, n_rows), dtype=torch.float32, device=device)
        self.n_rows = n_rows
        self.counts = np.zeros(n_rows, dtype=np.int64)
        self._free = list(range(n_rows - 1, -1, -1))

    @property
    def n_free(self) -> int:
        """Rows that are not being filled."""
        return len(self._free)

    def take(self, n: int) -> list[int]:
        """Zeroed rows for `n` pools.

        Raises:
            SteeringFailedError: Fewer are free.
        """
        if n > len(self._free):
            raise SteeringFailedError(f"{n} capture rows are needed and {len(self._free)} are free")
        rows = [self._free.pop() for _ in range(n)]
        self.sums[:, rows] = 0
        self.norms[:, rows] = 0
        self.counts[rows] = 0
        return rows

    def give_back(self, rows: list[int]) -> None:
        """Free rows."""
        self._free.extend(rows)
