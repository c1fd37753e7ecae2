"""Running sums of the pools that live requests fill, one row a pool."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from trait_core.errors import SteeringFailedError

from trait_service.engine.buffers import HostCopy, on_device

NEVER = -1


class CaptureRows:
    """Sums of the residual stream and of its norm over each pool's positions, by layer.

    Under asynchronous scheduling the engine may compute one position past a reply's end before it knows the end. So
    the newest generated position of a pool waits in `last`, and enters the sum when a newer one takes its place.

    Attributes:
        sums: `(n_rows, n_layers, d_model)` float32, residual units.
        norms: `(n_rows, n_layers)` float32, residual units.
        last: As `sums`: the stream of the pool's newest generated position; None unless `deferred`.
        last_norms: As `norms`, of that position.
        counts: `(n_rows,)` positions of each pool, the waiting one included.
        deferred_position: `(n_rows,)` absolute position that waits; `NEVER` for none.

    Args:
        n_layers: Decoder blocks of the model.
        n_rows: Pools that fit at once, over all requests.
        d_model: Width of the residual stream.
        device: The model's device.
        deferred: The newest generated position waits (asynchronous scheduling).
    """

    def __init__(
        self, n_layers: int, n_rows: int, d_model: int, device: torch.device, *, deferred: bool = False
    ) -> None:
        self.n_rows = n_rows
        self.deferred = deferred
        self.sums, self.norms = self._zeros(n_layers, d_model, device)
        self.last: torch.Tensor | None = None
        self.last_norms: torch.Tensor | None = None
        if deferred:
            self.last, self.last_norms = self._zeros(n_layers, d_model, device)
        self.counts = np.zeros(n_rows, dtype=np.int64)
        self.deferred_position = np.full(n_rows, NEVER, dtype=np.int64)
        self._free = list(range(n_rows))

    def _zeros(self, n_layers: int, d_model: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (self.n_rows, n_layers)
        return (
            torch.zeros((*shape, d_model), dtype=torch.float32, device=device),
            torch.zeros(shape, dtype=torch.float32, device=device),
        )

    @property
    def n_free(self) -> int:
        """Number of free rows."""
        return len(self._free)

    def take(self, n: int) -> list[int]:
        """Zeroed rows for `n` pools, in ascending order; the device is not waited for.

        Raises:
            SteeringFailedError: Fewer are free.
        """
        if n > len(self._free):
            raise SteeringFailedError(
                f"{n} capture rows are needed and {len(self._free)} of {self.n_rows} are free: start the service with more --capture-rows"
            )
        rows = [heapq.heappop(self._free) for _ in range(n)]
        for run in _runs(rows):
            for buffer in (self.sums, self.norms, self.last, self.last_norms):
                if buffer is not None:
                    buffer[run].zero_()
        self.counts[rows] = 0
        self.deferred_position[rows] = NEVER
        return rows

    def give_back(self, rows: Sequence[int]) -> None:
        """Free rows."""
        for row in rows:
            heapq.heappush(self._free, row)

    def count(self, rows: np.ndarray, n_positions: np.ndarray) -> None:
        """Note that a step adds positions to distinct pools; both `(n,)`."""
        self.counts[rows] += n_positions

    def defer(self, rows: np.ndarray, positions: np.ndarray) -> None:
        """Note the absolute positions that wait from this step on; both `(n,)`."""
        self.deferred_position[rows] = positions

    def read(self, rows: Sequence[int], layers: Sequence[int]) -> "PoolReading":
        """Start to read pools; they may be given back at once.

        Args:
            rows: The pools' rows.
            layers: Layers to read.
        """
        n_layers = self.sums.shape[1]
        at = on_device(np.add.outer(np.array(rows) * n_layers, np.array(layers)).ravel(), self.sums.device)
        return PoolReading(
            n_layers=len(layers),
            counts=self.counts[rows],
            waiting=self.deferred_position[rows],
            sums=HostCopy(_gathered(self.sums, self.norms, at)),
            last=None
            if self.last is None or self.last_norms is None
            else HostCopy(_gathered(self.last, self.last_norms, at)),
        )


@dataclass(frozen=True)
class PoolReading:
    """Pools of one request on their way to the host; rows are pool by pool, then layer by layer.

    Args:
        n_layers: Layers that are read.
        counts: `(n_pools,)` positions, the waiting one included.
        waiting: `(n_pools,)` absolute position that waits in `last`; `NEVER` for none.
        sums: `(n_pools * n_layers, d_model + 1)` float32: sums, and sums of norms in the last column.
        last: As `sums`, of the waiting position; None if none waits, ever.
    """

    n_layers: int
    counts: np.ndarray
    waiting: np.ndarray
    sums: HostCopy
    last: HostCopy | None

    def means(self, limit: int) -> dict[str, torch.Tensor]:
        """Means over pools; waits for the device.

        Args:
            limit: One past the last position that counts: a waiting position from there on is left out.

        Returns:
            `mean` float32 `(n_pools, n_layers_read, d_model)` and `norm` float32 `(n_pools, n_layers_read)`, residual
            units; `count` int32 `(n_pools,)`.
        """
        counts, sums = self.counts, self.sums.read()
        if self.last is not None:
            stays = self.waiting < limit
            counts = counts - ~stays
            sums = sums + torch.where(torch.from_numpy(np.repeat(stays, self.n_layers))[:, None], self.last.read(), 0.0)
        divisor = torch.from_numpy(counts).clamp(min=1).to(torch.float32)
        means = sums.view(len(counts), self.n_layers, -1) / divisor[:, None, None]
        return {
            "mean": means[..., :-1].contiguous(),
            "norm": means[..., -1].contiguous(),
            "count": torch.from_numpy(counts).to(torch.int32),
        }


def _gathered(sums: torch.Tensor, norms: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """`(n, d_model + 1)`: the sums at flat places, and their norms in the last column: one copy brings both to the host."""
    columns = [sums.flatten(0, 1).index_select(0, at), norms.flatten().index_select(0, at)[:, None]]
    return torch.cat(columns, dim=1)


def _runs(rows: Sequence[int]) -> list[slice]:
    """Ascending rows as slices of consecutive ones."""
    breaks = [i for i in range(1, len(rows)) if rows[i] != rows[i - 1] + 1]
    return [slice(rows[a], rows[b - 1] + 1) for a, b in zip([0, *breaks], [*breaks, len(rows)], strict=True) if a < b]
