"""Buffers of fixed shape that the operation reads: they never run out, and CUDA graphs may hold their addresses.

Each has a numpy side that the host writes and a tensor on the device. On the CPU both are the same memory.
"""

import numpy as np
import torch
from trait_core.errors import SteeringFailedError

NO_ROW = -1


class Mirrored:
    """A numpy array and its copy on the device.

    Args:
        shape: Shape of both arrays.
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

        The copy runs in parallel with the host: the engine must have ended the step before the array is written again, which
        holds because asynchronous scheduling is refused.
        """
        if self.tensor is not self._host:
            self.tensor[:n].copy_(self._host[:n], non_blocking=True)

    def flush_row(self, row: int) -> None:
        """Copy one entry of the first dimension to the device, as `flush` does."""
        if self.tensor is not self._host:
            self.tensor[row].copy_(self._host[row], non_blocking=True)


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
            raise SteeringFailedError(
                f"the vector bank is full: {self.rows.shape[0]} directions are in use (--bank-rows)"
            )
        row = self._free.pop()
        self.rows[row].copy_(torch.from_numpy(direction.astype(np.float32)))
        self._row_of[digest] = row

    def drop(self, digest: str) -> None:
        """Free a direction's row; freeing an absent row is a no-op."""
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
        """Number of free rows."""
        return len(self._free)

    def take(self, n: int) -> list[int]:
        """Zeroed rows for `n` pools.

        Raises:
            SteeringFailedError: Fewer are free.
        """
        if n > len(self._free):
            raise SteeringFailedError(
                f"{n} capture rows are needed and {len(self._free)} of {self.n_rows} are free: start the service with more --capture-rows"
            )
        rows = [self._free.pop() for _ in range(n)]
        self.sums[:, rows] = 0
        self.norms[:, rows] = 0
        self.counts[rows] = 0
        return rows

    def give_back(self, rows: list[int]) -> None:
        """Free rows."""
        self._free.extend(rows)
