"""One step on CUDA: the request table and each token's row on the device, for the Triton kernels.

All kernels are always launched, so that CUDA graphs hold them. Not yet run on a GPU.
"""

import numpy as np
import torch
from trait_core.schema import MAX_MONITORED, MAX_POSITIONS

from trait_service.engine.batch import Intervals, LiveBatch, Step
from trait_service.engine.buffers import NO_ROW, Mirrored, VectorBank
from trait_service.engine.capture_rows import CaptureRows
from trait_service.engine.cpu_step import HostValues
from trait_service.engine.request_table import RequestTable

STEER, CAPTURE, MONITOR = range(3)
"""Columns of a layer's flags: terms in use, whether it is captured, whether it is monitored."""


class CudaStep:
    """The device's side of the operation.

    Args:
        bank: Directions.
        pools: Running sums.
        n_layers: Decoder blocks of the model.
        max_requests: Rows.
        max_tokens: The most tokens in one step.
        terms_per_layer: Terms of one request on one layer.
        device: Where the model is.
    """

    def __init__(
        self,
        bank: VectorBank,
        pools: CaptureRows,
        *,
        n_layers: int,
        max_requests: int,
        max_tokens: int,
        terms_per_layer: int,
        device: torch.device,
    ) -> None:
        self._bank = bank
        self._pools = pools
        self.table = RequestTable(n_layers, max_requests, terms_per_layer, device)
        self.row = Mirrored((max_tokens,), np.int32, device, fill=NO_ROW)
        self.position = Mirrored((max_tokens,), np.int32, device)
        self.pool_slot = Mirrored((max_tokens, MAX_POSITIONS), np.int32, device, fill=NO_ROW)
        self.flags = Mirrored((n_layers, 3), np.int32, device)
        self._values = torch.zeros((max_tokens, MAX_MONITORED), dtype=torch.float32, device=device)
        self._rows = np.empty(0, dtype=np.int32)
        self._in_table: dict[int, object] = {}
        self._pool_intervals = Intervals.of([])
        self._pool_order = self._pool_slots = np.empty(0, dtype=np.int64)
        self._filled = 0

    def regroup(self, batch: LiveBatch) -> None:
        """After a change of batch membership, write the rows that now belong to other requests."""
        self._rows = batch.rows
        present = {int(batch.rows[index]): request for index, request in batch.live}
        for row in self._in_table.keys() - present.keys():
            self.table.clear(row)
        for row, request in present.items():
            if self._in_table.get(row) is not request:
                monitored = request.monitored if request.error is None else request.monitored[:0]
                self.table.write(row, request.terms, monitored)
        self._in_table = dict(present)
        self.table.flush()
        self.flags.array[:] = 0
        terms, _ = batch.terms
        np.maximum.at(self.flags.array[:, STEER], terms["layer"], (terms["k"] + 1).astype(np.int32))
        self.flags.array[sorted(batch.captured_layers), CAPTURE] = 1
        self.flags.array[batch.monitored[0]["layer"], MONITOR] = 1
        self.flags.flush()
        pools = batch.pools
        self._pool_intervals, self._pool_order, self._pool_slots = pools.intervals, pools.order, pools.row

    def prepare(self, step: Step, computed_to: np.ndarray) -> None:
        """Fill each token's row, position and pools; as `CpuStep.prepare`."""
        n, filled = step.n_tokens, max(step.n_tokens, self._filled)
        self.row.array[:n] = np.repeat(self._rows, step.n_scheduled)
        self.row.array[n:filled] = NO_ROW
        self.position.array[:n] = np.repeat(step.n_computed - step.first_place, step.n_scheduled) + np.arange(n)
        self.pool_slot.array[:filled] = NO_ROW
        spans = self._pool_intervals.spans(step, after=computed_to)
        self.pool_slot.array[spans.places(), np.repeat(self._pool_order, spans.length)] = np.repeat(
            self._pool_slots, spans.length
        )
        self._pools.counts[self._pool_slots] += spans.length
        self.row.flush(filled)
        self.position.flush(n)
        self.pool_slot.flush(filled)
        if self.flags.array[:, MONITOR].any():
            # A stage of a pipeline writes the columns of its own layers; the others are summed from theirs.
            self._values[:n] = 0
        self._filled = n

    def rest(self, *, dummy: bool = False) -> None:
        """Note that no token of the next forward pass is steered, captured or monitored: none has a row."""
        del dummy
        self.row.array[: self._filled] = NO_ROW
        self.pool_slot.array[: self._filled] = NO_ROW
        self.row.flush(self._filled)
        self.pool_slot.flush(self._filled)
        self._filled = 0

    def intervene(self, residual: torch.Tensor, hidden: torch.Tensor | None, layer: int) -> None:
        """Launch the kernels, whatever the batch: a captured CUDA graph must hold them."""
        from trait_service.engine import kernel_triton  # noqa: PLC0415 - Triton is absent on the CPU

        flags = self.flags.tensor[layer]
        table = self.table.on(layer)
        bank = self._bank.rows
        kernel_triton.steer(residual, hidden, bank, table, self.row.tensor, self.position.tensor, flags)
        kernel_triton.capture(
            residual, hidden, self.pool_slot.tensor, self._pools.sums[:, layer], self._pools.norms[:, layer], flags
        )
        kernel_triton.monitor(residual, hidden, bank, table, self.row.tensor, self._values, flags)

    def copy_values(self, n_tokens: int) -> HostValues:
        """The step's projections, `(n_tokens, MAX_MONITORED)` float32; waits for the device."""
        return HostValues(self._values[:n_tokens].cpu().numpy())
