"""Running sums of the pools that live requests fill, one row a pool."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from trait_core.errors import SteeringFailedError

from trait_service.engine.buffers import HostCopy, on_device

NEVER = -1

NORM_WORDS = 4
"""Numbers that follow each sum of streams: the sum of norms, and zeros that keep the next one aligned for the kernel."""


class CaptureRows:
    """Sums of the residual stream and of its norm over each pool's positions, by layer.

    Under asynchronous scheduling the engine may compute one position past a reply's end before it knows the end. So
    the newest generated position of a pool waits in `last`, and enters the sum when a newer one takes its place.

    Attributes:
        store: `(n_rows, n_kinds, n_layers, d_model + NORM_WORDS)` float32: all that follows; a pool is one piece of memory.
        sums: `(n_rows, n_layers, d_model)`, residual units.
        norms: `(n_rows, n_layers)`, residual units.
        last: As `sums`: the stream of the pool's newest generated position; None unless `deferred`.
        last_norms: As `norms`, of that position.
        counts: `(n_rows,)` positions of each pool, the waiting one included.
        deferred_position: `(n_rows,)` absolute position that waits; `NEVER` for none.

    Args:
        n_layers: Sites of the engine (`Sites`).
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
        shape = (n_rows, 2 if deferred else 1, n_layers, d_model + NORM_WORDS)
        self.store = torch.zeros(shape, dtype=torch.float32, device=device)
        self.sums, self.norms = self.store[:, 0, :, :d_model], self.store[:, 0, :, d_model]
        self.last = self.store[:, 1, :, :d_model] if deferred else None
        self.last_norms = self.store[:, 1, :, d_model] if deferred else None
        self.counts = np.zeros(n_rows, dtype=np.int64)
        self.deferred_position = np.full(n_rows, NEVER, dtype=np.int64)
        self._free = list(range(n_rows))

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
            self.store[run].zero_()
        self.counts[rows] = 0
        self.deferred_position[rows] = NEVER
        return rows

    def give_back(self, rows: Sequence[int]) -> None:
        """Free rows."""
        for row in rows:
            heapq.heappush(self._free, row)

    def count(self, rows: np.ndarray, n_positions: np.ndarray) -> None:
        """Note that a step adds positions to pools; both `(n,)`, a pool as often as it has intervals."""
        np.add.at(self.counts, rows, n_positions)

    def defer(self, rows: np.ndarray, positions: np.ndarray) -> None:
        """Note the absolute positions that wait from this step on; both `(n,)`."""
        self.deferred_position[rows] = positions

    def read(self, rows: Sequence[int], layers: Sequence[int]) -> "PoolReading":
        """Start to read pools; they may be given back at once.

        Args:
            rows: The pools' rows.
            layers: Layers to read.
        """
        runs = _runs(rows)
        n_kinds, n_layers, width = self.store.shape[1:]
        if len(runs) == 1 and list(layers) == list(range(n_layers)):
            found = self.store[runs[0]]
        else:
            kinds = np.array(rows)[:, None] * n_kinds + np.arange(n_kinds)
            at = on_device((kinds[..., None] * n_layers + np.array(layers)).ravel(), self.store.device)
            found = self.store.view(-1, width).index_select(0, at).view(len(rows), n_kinds, len(layers), width)
        return PoolReading(self.counts[rows], self.deferred_position[rows], HostCopy(found))


@dataclass(frozen=True)
class PoolReading:
    """Pools of one request on their way to the host.

    Args:
        counts: `(n_pools,)` positions, the waiting one included.
        waiting: `(n_pools,)` absolute position that waits; `NEVER` for none.
        store: `(n_pools, n_kinds, n_layers_read, d_model + NORM_WORDS)` float32, as in `CaptureRows`.
    """

    counts: np.ndarray
    waiting: np.ndarray
    store: HostCopy

    def means(self, limit: int) -> dict[str, torch.Tensor]:
        """Means over pools; waits for the device.

        Args:
            limit: One past the last position that counts: a waiting position from there on is left out.

        Returns:
            `mean` float32 `(n_pools, n_layers_read, d_model)` and `norm` float32 `(n_pools, n_layers_read)`, residual
            units; `count` int32 `(n_pools,)`.
        """
        counts, (sums, *last) = self.counts, self.store.read().unbind(1)
        if last:
            stays = self.waiting < limit
            counts = counts - ~stays
            # Chosen, not multiplied: what does not count may be infinite.
            sums = sums + torch.where(torch.from_numpy(stays)[:, None, None], last[0], 0.0)
        means = sums / torch.from_numpy(counts).clamp(min=1).to(torch.float32)[:, None, None]
        return {
            "mean": means[..., :-NORM_WORDS].contiguous(),
            "norm": means[..., -NORM_WORDS].contiguous(),
            "count": torch.from_numpy(counts).to(torch.int32),
        }


def _runs(rows: Sequence[int]) -> list[slice]:
    """Ascending rows as slices of consecutive ones."""
    breaks = [i for i in range(1, len(rows)) if rows[i] != rows[i - 1] + 1]
    return [slice(rows[a], rows[b - 1] + 1) for a, b in zip([0, *breaks], [*breaks, len(rows)], strict=True) if a < b]
