"""Buffers of fixed shape that the operation reads: they never run out, and CUDA graphs may hold their addresses."""

from typing import Any, NamedTuple

import numpy as np
import torch
from trait_core.errors import SteeringFailedError

NO_ROW = -1


def send(array: np.ndarray, out: torch.Tensor) -> None:
    """Copy an array into a tensor of its shape, without waiting for the device.

    Each copy to CUDA goes through pinned memory of its own, from PyTorch's cache, which does not hand it out again
    before the copy is done: the array may be written again at once, whatever steps are in flight.
    """
    source = torch.from_numpy(array)
    if out.device.type == "cuda":
        source = torch.empty(source.shape, dtype=source.dtype, pin_memory=True).copy_(source)
    out.copy_(source, non_blocking=True)


def on_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A new tensor that holds an array; as `send`."""
    source = torch.from_numpy(array)
    out = torch.empty(source.shape, dtype=source.dtype, device=device)
    send(array, out)
    return out


class HostCopy:
    """A copy of a tensor on its way to the host.

    Args:
        source: On the CPU it is copied at once; else when the device comes to it.
    """

    def __init__(self, source: torch.Tensor) -> None:
        self._event: Any = None
        if source.device.type == "cuda":
            self._host = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
            self._host.copy_(source, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = source.clone()

    def read(self) -> torch.Tensor:
        """The copy, on the host; waits for the device."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._host


class Mirrored:
    """A numpy array, and its copy on the device that `flush` brings up to date.

    Args:
        shape: Shape of both.
        dtype: numpy dtype of both.
        device: Where the copy lives.
        fill: Initial value.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type, device: torch.device, fill: float = 0) -> None:
        self.array: np.ndarray = np.full(shape, fill, dtype=dtype)
        self.tensor = torch.from_numpy(self.array).to(device, copy=True)

    def flush(self, n: int | None = None) -> None:
        """Copy the first `n` entries (None: all) to the device, as `send` does."""
        send(self.array[:n], self.tensor[:n])


class KernelBuffers(NamedTuple):
    """All that the steering kernel reads and writes besides the stream; on one device.

    Args:
        active: `(1 + max_tokens, 4)` int32: as `ActiveTokens`.
        flags: `(n_layers, 4)` int32: as `RequestTable`.
        table: `(n_rows, layout.width)` int32: as `RequestTable`.
        bank: `(n_bank_rows, d_model)` float32.
        pools: `CaptureRows.store`, changed in place.
        open_gates: `(max_tokens,)` int32, changed in place: the word of each token of the step.
        held: `(n_rows, MAX_GATES)` int64, changed in place: what the requests' rows hold (`gates`).
    """

    active: torch.Tensor
    flags: torch.Tensor
    table: torch.Tensor
    bank: torch.Tensor
    pools: torch.Tensor
    open_gates: torch.Tensor
    held: torch.Tensor


class MonitorBuffers(NamedTuple):
    """All that the monitoring kernel reads and writes besides the stream; on one device.

    Args:
        tiles: int32 words: as `MonitorTable`.
        sets: `(n_rows, n_layers + 1 + MAX_MONITORED)` int32: as `MonitorTable`.
        most: `(n_layers,)` int32: directions of the largest set on each layer.
        bank: `(n_bank_rows, d_model)` float32.
        values: float32, changed in place: the projections.
    """

    tiles: torch.Tensor
    sets: torch.Tensor
    most: torch.Tensor
    bank: torch.Tensor
    values: torch.Tensor


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
        self.n_dropped = 0  # since the start: rows that were read at another count may hold other directions

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
        send(direction.astype(np.float32), self.rows[row])
        self._row_of[digest] = row

    def drop(self, digest: str) -> None:
        """Free a direction's row; freeing an absent row is a no-op."""
        row = self._row_of.pop(digest, None)
        if row is not None:
            self._free.append(row)
            self.n_dropped += 1

    def row(self, digest: str) -> int:
        """The row of a direction.

        Raises:
            SteeringFailedError: The direction is not in the bank.
        """
        if digest not in self._row_of:
            raise SteeringFailedError(f"direction {digest[:12]} is not in the vector bank")
        return self._row_of[digest]
