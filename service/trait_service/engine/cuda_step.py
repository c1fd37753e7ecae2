"""One step on CUDA: the request table and the list of active tokens on the device, for the Triton kernel.

Not yet run on a GPU.
"""

import numpy as np
import torch
from trait_core.intervals import UNBOUNDED
from trait_core.schema import MAX_MONITORED

from trait_service.engine.active_tokens import ActiveTokens
from trait_service.engine.batch import Intervals, LiveBatch, Pools, Step
from trait_service.engine.buffers import NO_ROW, HostCopy, KernelBuffers, VectorBank
from trait_service.engine.capture_rows import CaptureRows
from trait_service.engine.cpu_step import HostValues
from trait_service.engine.request_table import MONITOR, RequestTable

PROGRAMS_PER_MULTIPROCESSOR = 4
"""Programs of a launch over many tokens: each takes an equal run of the active ones."""


_NOTHING = np.empty(0, dtype=np.int64)
NO_POOLS = Pools(Intervals(_NOTHING, _NOTHING, _NOTHING), _NOTHING, _NOTHING)


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
        sums_stages: The projections of all stages of a pipeline are summed: columns of layers elsewhere must be zero.
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
        sums_stages: bool = False,
    ) -> None:
        self._pools = pools
        self._device = device
        self._sums_stages = sums_stages
        self.table = RequestTable(n_layers, max_requests, terms_per_layer, device)
        self.active = ActiveTokens(max_tokens, device)
        self._values = torch.zeros((max_tokens, MAX_MONITORED), dtype=torch.float32, device=device)
        self._buffers = KernelBuffers(
            self.active.tensor,
            self.table.flags.tensor,
            self.table.tensor,
            bank.rows,
            pools.store,
            self._values,
        )
        self._n_programs = PROGRAMS_PER_MULTIPROCESSOR * _n_multiprocessors(device)
        self._launches_always = False
        self.regroup(LiveBatch(0, []))

    def regroup(self, batch: LiveBatch) -> None:
        """After a change of batch membership, write the rows that now belong to other requests."""
        self._row = batch.rows[batch.places]
        self.table.update(dict(zip(self._row.tolist(), [request for _, request in batch.live], strict=True)))
        self._acts: list[int] = self.table.flags.array.max(axis=1).tolist()
        self._asking = Intervals(batch.places, self.table.start[self._row], self.table.stop[self._row])
        n_prompt = self.table.n_prompt[self._row]
        self._waits_from = n_prompt if self._pools.deferred else np.full_like(n_prompt, UNBOUNDED)
        self._batch_pools = self._pools_of(batch, n_prompt)

    def _pools_of(self, batch: LiveBatch, n_prompt: np.ndarray) -> Pools:
        if not batch.capturing_requests:
            return NO_POOLS
        pools = self.table.pools[self._row]
        owner, order = np.nonzero(pools[:, :, 0] != NO_ROW)
        row, start, stop, step = pools[owner, order].T
        return Pools(Intervals.of(batch.places[owner], start, stop, step), row, n_prompt[owner])

    def prepare(self, step: Step, computed_to: np.ndarray) -> None:
        """List the active tokens; as `CpuStep.prepare`."""
        self._launches_always = False
        self.active.fill(step, self._asking, self._row, computed_to[self._asking.owner], self._waits_from)
        if self._batch_pools:
            self._batch_pools.note(step, computed_to, self._pools)
        if self._sums_stages and self.table.flags.array[:, MONITOR].any():
            self._values[: step.n_tokens].zero_()

    def rest(self, *, dummy: bool = False) -> None:
        """Note that no token of the next forward pass is steered, captured or monitored.

        Args:
            dummy: Launch the kernel all the same: it is compiled in such passes, and CUDA graphs record it.
        """
        self.active.clear()
        self._launches_always = dummy

    def intervene(self, residual: torch.Tensor, hidden: torch.Tensor | None, layer: int) -> None:
        """Launch the kernel on one layer, if it has anything to do there or a CUDA graph must hold it."""
        if not (self.active.n and self._acts[layer]) and not self._launches_always and not self._is_recorded():
            return
        from trait_service.engine import kernel_triton  # noqa: PLC0415 - Triton is absent on the CPU

        kernel_triton.intervene(residual, hidden, self._buffers, self.table.layout, layer, self._n_programs)

    def _is_recorded(self) -> bool:
        return self._device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def copy_values(self, n_tokens: int) -> HostValues:
        """Start to copy the step's projections, `(n_tokens, MAX_MONITORED)` float32; the next step comes after the copy."""
        return HostValues(HostCopy(self._values[:n_tokens]))


def _n_multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 1
