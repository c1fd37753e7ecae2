"""One step on CUDA: the request table, the list of active tokens and what is monitored, on the device, for the Triton kernels."""

from typing import NamedTuple

import numpy as np
import torch
from trait_core.intervals import UNBOUNDED

from trait_service.engine.active_tokens import GATED, ActiveTokens
from trait_service.engine.batch import Intervals, LiveBatch, Pools, Step
from trait_service.engine.buffers import NO_ROW, HostCopy, KernelBuffers, MonitorBuffers, VectorBank, on_device
from trait_service.engine.capture_rows import CaptureRows
from trait_service.engine.gates import MAX_GATES
from trait_service.engine.monitor_table import MonitorTable
from trait_service.engine.monitored_tokens import MonitoredTokens, StepTokens
from trait_service.engine.reply_scopes import ReplyScopes
from trait_service.engine.request_table import RequestTable

PROGRAMS_PER_MULTIPROCESSOR = 4
"""Programs of a launch over many tokens: each takes an equal run of the active ones."""


_NOTHING = np.empty(0, dtype=np.int64)
NO_POOLS = Pools(Intervals(_NOTHING, _NOTHING, _NOTHING), _NOTHING, _NOTHING)


class CudaStep:
    """The device's side of the operation.

    Args:
        bank: Directions.
        pools: Running sums.
        n_layers: Sites of the engine (`Sites`).
        max_requests: Rows.
        max_tokens: The most tokens in one step.
        terms_per_layer: Terms of one request on one layer.
        device: Where the model is.
        sums_stages: The projections of all stages of a pipeline are summed: columns of layers elsewhere must be zero.

    Attributes:
        monitored: The monitored requests of the batch.
        monitored_tokens: Their tokens in the step; None: there are none.
        replies: The selectors of the batch's replies.
    """

    monitored: MonitoredTokens
    monitored_tokens: StepTokens | None

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
        self.monitor_table = MonitorTable(n_layers, max_requests, max_tokens, device)
        self._open_gates = torch.zeros(max_tokens, dtype=torch.int32, device=device)
        self._held = torch.zeros((max_requests, MAX_GATES), dtype=torch.int64, device=device)
        self._n_tokens = 0
        self.replies = ReplyScopes(device)
        self._buffers = KernelBuffers(
            self.active.tensor,
            self.table.flags.tensor,
            self.table.tensor,
            bank.rows,
            pools.store,
            self._open_gates,
            self._held,
        )
        self._monitor_buffers = MonitorBuffers(
            self.monitor_table.tiles,
            self.monitor_table.sets,
            self.monitor_table.most,
            bank.rows,
            self.monitor_table.values,
        )
        self._n_programs = PROGRAMS_PER_MULTIPROCESSOR * _n_multiprocessors(device)
        self._launches_always = False
        self.regroup(LiveBatch(0, []))

    def regroup(self, batch: LiveBatch) -> None:
        """After a change of batch membership, write the rows that now belong to other requests."""
        self._batch = batch
        self._row = batch.rows[batch.places]
        self.table.update(dict(zip(self._row.tolist(), [request for _, request in batch.live], strict=True)))
        self._acts: list[int] = self.table.flags.array.max(axis=1).tolist()
        self._asking = Intervals(batch.places, self.table.start[self._row], self.table.stop[self._row])
        self._gated = GATED * self.table.gated[self._row].astype(np.int64)
        n_prompt = self.table.n_prompt[self._row]
        self._waits_from = n_prompt if self._pools.deferred else np.full_like(n_prompt, UNBOUNDED)
        self._batch_pools = self._pools_of(batch, n_prompt)
        self.replies.regroup(batch)
        self.monitored = MonitoredTokens(batch)
        self.monitored_tokens = None
        self.monitor_table.update(self.monitored)

    def _pools_of(self, batch: LiveBatch, n_prompt: np.ndarray) -> Pools:
        if not batch.capturing_requests:
            return NO_POOLS
        pools = self.table.pools[self._row]
        owner, order = np.nonzero(pools[:, :, 0] != NO_ROW)
        row, start, stop, step = pools[owner, order].T
        return Pools(Intervals.of(batch.places[owner], start, stop, step), row, n_prompt[owner])

    def prepare(self, step: Step, computed_to: np.ndarray) -> None:
        """List the active and the monitored tokens; as `CpuStep.prepare`."""
        self._launches_always = False
        self._n_tokens = step.n_tokens
        starting = self._batch.starting_rows(step)
        if len(starting):
            self._held.index_fill_(0, on_device(starting, self._device), 0)
        if self.replies and (held := self.replies.on_step(step)) is not None:
            self._open_gates.index_copy_(0, held.place, held.word)
        self.active.fill(step, self._asking, self._row, computed_to[self._asking.owner], self._waits_from, self._gated)
        if self._batch_pools:
            self._batch_pools.note(step, computed_to, self._pools)
        self.monitored_tokens = self.monitored.on_step(step)
        self.monitor_table.fill(self.monitored_tokens)
        if self._sums_stages and self.monitored_tokens is not None:
            self.monitor_table.step_values().zero_()

    def rest(self, *, dummy: bool = False) -> None:
        """Note that no token of the next forward pass is steered, captured or monitored.

        Args:
            dummy: Launch the kernels all the same: they are compiled in such passes, and CUDA graphs record them.
        """
        self.active.clear()
        self.monitor_table.clear()
        self.monitored_tokens = None
        self._launches_always = dummy

    @property
    def n_active(self) -> int:
        """Tokens that are steered, captured or monitored; one that is monitored may count twice."""
        return self.active.n + self.monitor_table.n_tokens

    def intervene(self, residual: torch.Tensor, hidden: torch.Tensor | None, layer: int) -> None:
        """Launch the kernels on one layer, each if it has anything to do there or a CUDA graph must hold it."""
        always = self._launches_always or self._is_recorded()
        acts = always or (self.active.n > 0 and self._acts[layer] > 0)
        monitors = always or (self.monitor_table.n_tokens > 0 and self.monitor_table.acts(layer))
        if not (acts or monitors):
            return
        from trait_service.engine import kernel_monitor, kernel_triton  # noqa: PLC0415 - Triton is absent on the CPU

        if acts:
            kernel_triton.intervene(residual, hidden, self._buffers, self.table.layout, layer, self._n_programs)
        if monitors:
            kernel_monitor.monitor(residual, hidden, self._monitor_buffers, layer, self._n_programs)

    def _is_recorded(self) -> bool:
        return self._device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def copy_open(self) -> "DeviceValues":
        """Start to copy the words of the step's tokens; as `copy_values`."""
        return DeviceValues(HostCopy(self._open_gates[: self._n_tokens]))

    def copy_values(self) -> "DeviceValues":
        """Start to copy the projections of the step's monitored tokens; the next step comes after the copy."""
        return DeviceValues(HostCopy(self.monitor_table.step_values()))


class DeviceValues(NamedTuple):
    """Numbers of one step, on their way to the host."""

    values: HostCopy

    def read(self) -> np.ndarray:
        """Projections, `(n_monitored_tokens, n_directions)` float32, or words of gates, `(n_tokens,)` int32; waits for the device."""
        array: np.ndarray = self.values.read().numpy()
        return array


def _n_multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 1
