"""The engine side's state: which request stands in which row, and what this step steers and captures.

One instance a worker. The runner calls `prepare` before each forward pass, the operation calls `intervene` once a
layer inside it, and RPC calls `collect` when a request is done.
"""

import logging
from typing import Any

import numpy as np
import torch
from trait_client.errors import SteeringFailedError, TraitError

from trait_service.engine import kernel_torch
from trait_service.engine.buffers import NO_ROW, CaptureRows, Mirrored, RequestTable, VectorBank
from trait_service.engine.requests import LiveRequest, entries_of
from trait_service.engine.results import Results
from trait_service.engine.settings import EngineSettings
from trait_service.engine.spec import RequestSpec
from trait_service.engine.step import StepView

logger = logging.getLogger(__name__)

MAX_POOLS = 8
"""Pools of one request; the wire schema's limit."""


class SteeringState:
    """Buffers, live requests and results of one worker.

    Args:
        settings: Shapes.
        n_layers: Decoder blocks of the model.
        d_model: Width of the residual stream.
        max_requests: Rows: the most requests in one batch.
        max_tokens: The most tokens in one step.
        device: Of the model.
        captures: Whether this worker writes captures (one writer under tensor parallelism).
    """

    def __init__(
        self,
        settings: EngineSettings,
        *,
        n_layers: int,
        d_model: int,
        max_requests: int,
        max_tokens: int,
        device: torch.device,
        captures: bool = True,
    ) -> None:
        self.settings = settings
        self.n_layers = n_layers
        self.d_model = d_model
        self.max_requests = max_requests
        self.device = device
        self.captures = captures
        self.bank = VectorBank(settings.bank_rows, d_model, device)
        self.table = RequestTable(n_layers, max_requests, settings.terms_per_layer, device)
        self.pools = CaptureRows(n_layers, settings.capture_rows or max(2 * max_requests, MAX_POOLS), d_model, device)
        self.row = Mirrored((max_tokens,), np.int32, device, fill=NO_ROW)
        self.position = Mirrored((max_tokens,), np.int32, device)
        self.pool_slot = Mirrored((max_tokens, MAX_POOLS), np.int32, device, fill=NO_ROW)
        self.pooled_tokens = torch.empty(0, dtype=torch.long)
        self.pooled_slots = torch.empty(0, dtype=torch.long)
        self.layer_captured = [False] * n_layers
        self.layer_flags = Mirrored((n_layers, 2), np.int32, device)
        self.idle = True
        self._live: dict[str, LiveRequest] = {}
        self._row_of: dict[str, int] = {}
        self._free_rows = list(range(max_requests - 1, -1, -1))
        self._batch: list[str] | None = None
        self._batch_live: list[tuple[int, LiveRequest]] = []
        self._batch_rows = np.empty(0, dtype=np.int32)
        self._row_steered = np.zeros(max_requests, dtype=bool)
        self._tokens = kernel_torch.StepTokens.none()
        self._filled = 0
        self._results = Results(settings.max_results_waiting)

    # ------------------------------------------------------------------------------------------ before a step

    def prepare(self, view: StepView) -> None:
        """Bring the buffers up to date with the batch of the coming forward pass."""
        if view.request_ids != self._batch:
            self._regroup(view)
        if not self._batch_live:
            self.rest()
            return
        lengths = view.n_scheduled
        n = int(lengths.sum())
        starts = np.cumsum(lengths) - lengths
        rows = np.repeat(self._batch_rows, lengths)
        positions = np.repeat(view.n_computed - starts, lengths) + np.arange(n)
        self.row.array[:n] = rows
        self.row.array[n : self._filled] = NO_ROW
        self.position.array[:n] = positions
        self._pick_pooled(view, n)
        steered = np.flatnonzero((rows != NO_ROW) & self._row_steered[rows])
        self._tokens = kernel_torch.StepTokens.of(steered, rows, positions)
        self._filled = max(n, self._filled)
        self.row.flush(self._filled)
        self.position.flush(n)
        self._filled = n
        for index, request in self._batch_live:
            request.computed_to = max(request.computed_to, int(view.n_computed[index] + lengths[index]))
        self.idle = False

    def rest(self) -> None:
        """Nothing in the coming forward pass concerns us (a plain batch, a dummy run): no host work until one does."""
        if self.idle:
            return
        self.row.array[: self._filled] = NO_ROW
        self.pool_slot.array[: self._filled] = NO_ROW
        self.row.flush(self._filled)
        self.pool_slot.flush(self._filled)
        self._filled = 0
        self.idle = True

    def failed_indices(self) -> list[int]:
        """Places in the batch of requests that cannot be steered as asked: they must not get text."""
        return [index for index, request in self._batch_live if request.error is not None]

    def remove(self, request_id: str) -> None:
        """A request has left the engine: finished or aborted."""
        request = self._live.pop(request_id, None)
        if request is None:
            return
        self._batch = None
        row = self._row_of.pop(request_id, None)
        if row is not None:
            self._release_row(row)
        if not request.collected:
            self._keep_result(request)
        self.pools.give_back(request.capture_rows)

    # ------------------------------------------------------------------------------------------ inside a step

    def intervene(self, residual: torch.Tensor, hidden: torch.Tensor | None, layer: int) -> None:
        """The operation's body on one layer: steer, then capture."""
        if residual.device.type == "cuda":
            self._launch(residual, hidden, layer)
            return
        if self.idle:
            return
        if self.table.terms_used[layer] and self._tokens.place.numel():
            kernel_torch.steer(residual, hidden, self.bank.rows, self.table.on(layer), self._tokens)
        if self.layer_captured[layer] and self.pooled_tokens.numel():
            kernel_torch.capture(
                residual, hidden, self.pooled_tokens, self.pooled_slots, self.pools.sums[layer], self.pools.norms[layer]
            )

    # ------------------------------------------------------------------------------------------ results

    def collect(self, keys: list[str]) -> dict[str, Any]:
        """Take the reports and captures of requests that are done (or nearly: those of the last step).

        Args:
            keys: `RequestSpec.key`s.

        Returns:
            As `Results.take`.
        """
        wanted = set(keys)
        for request in self._live.values():
            if request.spec.key in wanted and not request.collected:
                self._keep_result(request)
                request.collected = True
        return self._results.take(keys)

    def stats(self) -> dict[str, int]:
        """Occupancy, for health and tests."""
        return {
            "live_requests": len(self._live),
            "rows_used": len(self._row_of),
            "bank_directions": len(self.bank),
            "bank_rows": self.settings.bank_rows,
            "capture_rows_free": self.pools.n_free,
            **self._results.stats(),
        }

    # ------------------------------------------------------------------------------------------ private

    def _launch(self, residual: torch.Tensor, hidden: torch.Tensor | None, layer: int) -> None:
        """Both kernels, whatever the batch: a captured CUDA graph must hold them."""
        from trait_service.engine import kernel_triton  # noqa: PLC0415 - Triton is absent on the CPU

        flags = self.layer_flags.tensor[layer]
        kernel_triton.steer(
            residual, hidden, self.bank.rows, self.table.on(layer), self.row.tensor, self.position.tensor, flags
        )
        kernel_triton.capture(
            residual, hidden, self.pool_slot.tensor, self.pools.sums[layer], self.pools.norms[layer], flags
        )

    def _regroup(self, view: StepView) -> None:
        """Batch membership changed: admit newcomers, give rows to who is in the batch, take them from who is not."""
        present = set(view.request_ids)
        for request_id in [i for i in self._row_of if i not in present]:
            self._release_row(self._row_of.pop(request_id))
        self._batch_live = []
        self._batch_rows = np.full(len(view.request_ids), NO_ROW, dtype=np.int32)
        for index, request_id in enumerate(view.request_ids):
            request = self._live.get(request_id) or self._admit(request_id, index, view)
            if request is None:
                continue
            self._batch_live.append((index, request))
            self._batch_rows[index] = self._row_for(request_id, request)
        self.table.flush()
        self.layer_captured = [False] * self.n_layers
        for _, request in self._batch_live:
            if request.capture_rows and request.spec.capture is not None:
                for layer in request.spec.capture.layers or range(self.n_layers):
                    self.layer_captured[layer] = True
        self.layer_flags.array[:, 0] = self.table.terms_used
        self.layer_flags.array[:, 1] = self.layer_captured
        self.layer_flags.flush()
        self._batch = list(view.request_ids)

    def _admit(self, request_id: str, index: int, view: StepView) -> LiveRequest | None:
        extra_args = view.extra_args(request_id)
        if not extra_args:
            return None
        n_prompt = view.n_prompt(request_id)
        first = int(view.n_computed[index])
        try:
            spec = RequestSpec.from_extra_args(dict(extra_args))
            if spec is None:
                return None
        except TraitError as error:
            spec = RequestSpec.model_construct(key=f"invalid:{request_id}", terms=[], capture=None)
            request = LiveRequest(spec, n_prompt, error=str(error))
        else:
            request = LiveRequest(spec, n_prompt, first_computed=first)
            self._equip(request)
        if request.error is not None:
            logger.error("request %s cannot be steered as asked: %s", request_id, request.error)
        self._live[request_id] = request
        return request

    def _equip(self, request: LiveRequest) -> None:
        """Resolve scopes and pools; what cannot be done is kept as the request's error."""
        try:
            request.entries = entries_of(request.spec, request.n_prompt, self.n_layers, self.bank)
            capture = request.spec.capture
            if capture is not None:
                beyond = [layer for layer in capture.layers or [] if layer >= self.n_layers]
                if beyond:
                    raise SteeringFailedError(
                        f"layer {beyond[0]} is out of range: the model has layers 0..{self.n_layers - 1}"
                    )
                request.pools = capture.intervals(request.n_prompt)
                missed = [
                    p
                    for p, (start, stop) in zip(capture.positions, request.pools, strict=True)
                    if start < min(stop, request.first_computed)
                ]
                if missed:
                    raise SteeringFailedError(
                        f"positions {missed[0]} were read from the prefix cache: set skip_reading_prefix_cache"
                    )
                if self.captures:
                    request.capture_rows = self.pools.take(len(request.pools))
        except TraitError as error:
            request.error = str(error)

    def _row_for(self, request_id: str, request: LiveRequest) -> int:
        row = self._row_of.get(request_id)
        if row is not None:
            return row
        row = self._free_rows.pop()
        try:
            self.table.write(row, [] if request.error else request.entries)
        except TraitError as error:
            request.error = str(error)
        self._row_of[request_id] = row
        self._row_steered[row] = bool(request.entries) and request.error is None
        return row

    def _release_row(self, row: int) -> None:
        self.table.clear(row)
        self._row_steered[row] = False
        self._free_rows.append(row)

    def _pick_pooled(self, view: StepView, n: int) -> None:
        """Which token goes into which pool in this step; a position counts once, however often it is computed."""
        tokens, slots = [], []
        self.pool_slot.array[: max(n, self._filled)] = NO_ROW
        starts = np.cumsum(view.n_scheduled) - view.n_scheduled
        for index, request in self._batch_live:
            if not request.capture_rows or request.error is not None:
                continue
            first = max(int(view.n_computed[index]), request.computed_to)
            last = int(view.n_computed[index] + view.n_scheduled[index])
            shift = int(starts[index]) - int(view.n_computed[index])
            for pool, ((start, stop), slot) in enumerate(zip(request.pools, request.capture_rows, strict=True)):
                picked = np.arange(max(first, start), min(last, stop)) + shift
                if picked.size:
                    tokens.append(picked)
                    slots.append(np.full(picked.size, slot))
                    self.pool_slot.array[picked, pool] = slot
                    self.pools.counts[slot] += picked.size
        self.pool_slot.flush(max(n, self._filled))
        empty = np.empty(0, dtype=np.int64)
        self.pooled_tokens = torch.from_numpy(np.concatenate(tokens) if tokens else empty)
        self.pooled_slots = torch.from_numpy(np.concatenate(slots) if slots else empty)

    def _keep_result(self, request: LiveRequest) -> None:
        captured = self._read_pools(request) if request.capture_rows and request.error is None else None
        self._results.keep(request.report(), captured)

    def _read_pools(self, request: LiveRequest) -> dict[str, torch.Tensor]:
        capture = request.spec.capture
        layers = list(range(self.n_layers)) if capture is None or capture.layers is None else capture.layers
        counts = torch.from_numpy(self.pools.counts[request.capture_rows])
        at = (torch.tensor(layers)[:, None], torch.tensor(request.capture_rows)[None, :])
        divisor = counts.clamp(min=1).to(torch.float32)
        return {
            "mean": (self.pools.sums[at].cpu().transpose(0, 1) / divisor[:, None, None]).contiguous(),
            "norm": (self.pools.norms[at].cpu().transpose(0, 1) / divisor[:, None]).contiguous(),
            "count": counts.to(torch.int32),
        }
