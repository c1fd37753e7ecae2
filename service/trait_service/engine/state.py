"""The state of the engine side: the row of each request, and what this step steers, captures and monitors.

One instance a worker. The runner calls `prepare` before each forward pass and `finish` after it, the operation calls
`intervene` once a layer inside it, and RPC calls `collect` when a request is done.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from trait_core.errors import SteeringFailedError, TraitError
from trait_core.intervals import UNBOUNDED, Interval
from trait_core.schema import RESID_POST

from trait_service.engine.batch import LiveBatch, Step
from trait_service.engine.buffers import VectorBank
from trait_service.engine.capture_rows import CaptureRows
from trait_service.engine.cpu_step import CpuStep
from trait_service.engine.cuda_step import CudaStep
from trait_service.engine.direction_sets import DirectionSets
from trait_service.engine.each_position import Spools
from trait_service.engine.engine_shape import EngineShape
from trait_service.engine.requests import (
    LiveRequest,
    completion_of,
    first_monitored,
    pool_intervals,
    term_arrays,
)
from trait_service.engine.results import Finished, Results
from trait_service.engine.runner_view import StepView
from trait_service.engine.settings import EngineSettings
from trait_service.engine.spec import LensSpec, RequestSpec
from trait_service.engine.step_end import EndOfStep, LateQueue, LateValues, StepGates, StepProjections
from trait_service.engine.stream_lens import StreamLens

logger = logging.getLogger(__name__)


NO_EACH_POSITION = (
    "every position can be captured only if one worker runs all layers eagerly: with --enforce-eager on CUDA, and without pipeline "
    "parallelism"
)


class SteeringState:
    """Buffers, live requests and results of one worker.

    Args:
        settings: Sizes of the buffers.
        shape: The model and the worker.
    """

    def __init__(self, settings: EngineSettings, shape: EngineShape) -> None:
        self.settings = settings
        self.shape = shape
        self.bank = VectorBank(settings.bank_rows, shape.d_model, shape.device)
        self.pools = CaptureRows(
            len(shape.sites),
            settings.capture_rows if shape.captures else 1,
            shape.d_model,
            shape.device,
            deferred=shape.asynchronous,
        )
        self._sets = DirectionSets(self.bank, shape.sites)
        self.idle = True
        self.lens: StreamLens | None = None  # once the model is loaded
        self.unchecked: dict[int, str] = {}  # site -> class, until the first forward pass has shown what it returns
        self._step = self._new_step()
        # The runner of a stage that puts out no tokens is never asked for its step's verdict.
        self._never_asked = not shape.sees_all_layers
        refusal = None if shape.each_position else NO_EACH_POSITION
        self._spools = Spools(shape.d_model, settings.max_spool_bytes, writes=shape.captures, refusal=refusal)
        self._live: dict[str, LiveRequest] = {}
        self._row_of: dict[str, int] = {}
        self._free_rows = list(range(shape.max_requests - 1, -1, -1))
        self._batch_ids: list[str] | None = None
        self._batch = LiveBatch(0, [])
        self._grouped = False
        self._current = Step(*(np.empty(0, dtype=np.int64),) * 3, n_tokens=0)
        self._late = LateQueue()
        self._results = Results(settings.max_results_waiting)

    def _new_step(self) -> CpuStep | CudaStep:
        shape = self.shape
        if shape.device.type == "cpu":
            return CpuStep(
                self.bank,
                self.pools,
                len(shape.sites),
                max_requests=shape.max_requests,
                sums_stages=not shape.sees_all_layers,
            )
        return CudaStep(
            self.bank,
            self.pools,
            n_layers=len(shape.sites),
            max_requests=shape.max_requests,
            max_tokens=shape.max_tokens,
            terms_per_layer=self.settings.terms_per_layer,
            device=shape.device,
            sums_stages=not shape.sees_all_layers,
        )

    # ------------------------------------------------------------------------------------------ a step

    def prepare(self, view: StepView) -> None:
        """Update the buffers for the batch of the next forward pass."""
        if view.request_ids != self._batch_ids:
            self._regroup(view)
        if not self._batch:
            self.rest()
            return
        self._current = Step.of(view)
        self._step.prepare(self._current, self._batch.computed_to)
        self._spools.prepare(self._current, self._batch)
        self.idle = False

    def intervene(self, residual: torch.Tensor, hidden: torch.Tensor | None, layer: int) -> None:
        """The operation's body at one site: steer, then capture and monitor."""
        if self._spools.active:
            self._spools.keep(residual, hidden, layer, before_steering=True)
        self._step.intervene(residual, hidden, layer)
        if self._spools.active:
            self._spools.keep(residual, hidden, layer, before_steering=False)

    def finish(self) -> EndOfStep | None:
        """Note that the forward pass was started: its positions count as computed.

        Returns:
            The step's end, known once the device is done; None if no request of the step is steered, captured or monitored.
        """
        if self.idle:
            return None
        assert self._batch_ids is not None, "prepare() has set it"
        step, batch, ids = self._current, self._batch, self._batch_ids
        late = LateValues()
        tokens = self._step.monitored_tokens
        if tokens is not None and self.shape.captures:
            values = self._step.copy_values()
            late.parts.append(StepProjections.of(self._step.monitored, tokens, batch.computed_to, values))
        if batch.gated_requests:
            late.parts.append(StepGates.of(batch.gated_requests, step, batch.computed_to, self._step.copy_open()))
        if batch.lens_requests and self.lens is not None:
            guesses = self.lens.read(batch, step, batch.computed_to, self.pools)
            if guesses is not None:
                late.parts.append(guesses)
        if late.parts:
            self._late.push(late)
        batch.advance(step)
        failed = [ids[index] for index, request in batch.live if request.error is not None]
        bounded = [
            (ids[index], request, int(step.n_computed[index] + step.n_scheduled[index]))
            for index, request in batch.bounded_requests
        ]
        return EndOfStep(failed, bounded, late, self._late)

    def rest(self, *, dummy: bool = False) -> None:
        """No request in the next forward pass is steered, captured or monitored.

        Args:
            dummy: It runs on made-up tokens: kernels are compiled and CUDA graphs are captured in such passes.
        """
        self._step.rest(dummy=dummy)
        self._spools.rest()
        self.idle = True

    def remove(self, request_id: str) -> None:
        """Remove a request that has left the engine: finished or aborted."""
        request = self._live.get(request_id)
        if request is None:
            return
        self._batch.settle(request)
        del self._live[request_id]
        self._batch_ids = None
        row = self._row_of.pop(request_id, None)
        if row is not None:
            self._free_rows.append(row)
        if not request.collected:
            self._keep_result(request)
        if request.monitored is not None:
            self._sets.release(request.monitored)
        if request.selectors:
            self._step.replies.give_back(request.marker_row)
        self.pools.give_back(request.capture_rows)
        self._spools.release(request)

    @property
    def n_active(self) -> int:
        """Tokens of the next forward pass that the CUDA kernel acts on; 0 on the CPU, which keeps no list of them."""
        return self._step.n_active if isinstance(self._step, CudaStep) else 0

    # ------------------------------------------------------------------------------------------ results

    def collect(self, lengths: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Take the reports, captures and projections of requests that are done (or nearly: those of the last step).

        Args:
            lengths: `RequestSpec.key` -> generated tokens of each completion; empty if not known.

        Returns:
            As `Results.take`.
        """
        self._batch.settle()
        with self._late.settled(everything=self._never_asked):
            for request in self._live.values():
                if request.spec.key in lengths and not request.collected:
                    self._keep_result(request)
                    request.collected = True
            return self._results.take(lengths)

    def projections(self, after: dict[str, int]) -> bytes:
        """Projections so far of monitored requests that are still running.

        Args:
            after: `RequestSpec.key` -> first absolute position that the caller lacks.

        Returns:
            safetensors bytes, `<key>/projections/<completion>` float32 `(n_positions, n_columns)` and `<key>/lens/<completion>`
            float32 `(n_positions, n_layers * 2 * top_k)`: the rest. A key that is not live is missing.
        """
        found = {}
        with self._late.settled(everything=self._never_asked):
            for request in self._live.values():
                if request.spec.key not in after or request.error is not None:
                    continue
                key, completion, first = request.spec.key, request.completion, after[request.spec.key]
                if request.monitored is not None:
                    skipped = max(first - request.monitored_from, 0)
                    found[f"{key}/projections/{completion}"] = request.projections_between(skipped)
                if self._guesses(request):
                    skipped = max(first - (request.n_prompt - 1), 0)
                    found[f"{key}/lens/{completion}"] = request.guesses_between(skipped)
        return save(found) if found else b""

    def stats(self) -> dict[str, int]:
        """Occupancy, for health and tests."""
        return {
            "live_requests": len(self._live),
            "rows_used": len(self._row_of),
            "bank_directions": len(self.bank),
            "bank_rows": self.settings.bank_rows,
            "direction_sets": len(self._sets),
            "capture_rows_free": self.pools.n_free,
            **self._results.stats(),
        }

    # ------------------------------------------------------------------------------------------ private

    def _regroup(self, view: StepView) -> None:
        """After a change of batch membership: admit new requests, give rows to those in the batch, free the others."""
        self._batch.settle()
        present = set(view.request_ids)
        for request_id in [i for i in self._row_of if i not in present]:
            self._free_rows.append(self._row_of.pop(request_id))
        live = []
        for index, request_id in enumerate(view.request_ids):
            request = self._live.get(request_id) or self._admit(request_id, index, view)
            if request is not None:
                if request_id not in self._row_of:
                    self._row_of[request_id] = self._free_rows.pop()
                live.append((index, self._row_of[request_id], request))
        self._batch = LiveBatch(len(view.request_ids), live)
        self._batch_ids = list(view.request_ids)
        if live or self._grouped:
            self._step.regroup(self._batch)
        self._grouped = bool(live)

    def _admit(self, request_id: str, index: int, view: StepView) -> LiveRequest | None:
        extra_args = view.extra_args(request_id)
        if not extra_args:
            return None
        n_prompt = view.n_prompt(request_id)
        try:
            spec = RequestSpec.from_extra_args(dict(extra_args))
            if spec is None:
                return None
        except TraitError as error:
            spec = RequestSpec.model_construct(key=f"invalid:{request_id}", terms=[], capture=None, monitor=None)
            request = LiveRequest(spec, n_prompt, error=str(error))
        else:
            completion = completion_of(request_id, spec.n)
            request = LiveRequest(spec, n_prompt, completion, first_computed=int(view.n_computed[index]))
            try:
                self._equip(request)
            except TraitError as error:
                request.error = str(error)
        if request.error is not None:
            logger.error("request %s cannot be steered as asked: %s", request_id, request.error)
        self._live[request_id] = request
        return request

    def _equip(self, request: LiveRequest) -> None:
        """Resolve scopes, pools and monitored directions.

        Raises:
            SteeringFailedError: The request cannot be served as asked.
        """
        spec = request.spec
        request.terms, request.gates, request.acts, request.selectors = term_arrays(
            spec.terms,
            request.n_prompt,
            request.first_computed,
            self.shape.sites,
            self.settings.terms_per_layer,
            self.bank,
        )
        if request.selectors:
            request.marker_row = self._step.replies.take()
        if request.reads_words and not self.shape.sees_all_layers:
            raise SteeringFailedError(
                "gates (when), and scopes that depend on generated tokens, are not supported with pipeline parallelism"
            )
        if spec.monitor is not None:
            if spec.monitor.has_bounds and not self.shape.sees_all_layers:
                raise SteeringFailedError("bounds of a monitor are not supported with pipeline parallelism")
            request.monitored_from = first_monitored(spec.monitor, request.n_prompt, request.first_computed)
            request.monitored = self._sets.acquire(spec.monitor.columns)
        if spec.capture is not None:
            request.captured_layers = self.shape.captured_sites(spec.capture)
            request.pools = pool_intervals(spec.capture, request.n_prompt, request.first_computed)
            if spec.capture.each:
                self._spools.equip(request)
            elif self.shape.captures:
                request.capture_rows = self.pools.take(len(request.pools))
        if spec.lens is not None:
            self._equip_lens(request, spec.lens)

    def _equip_lens(self, request: LiveRequest, asked: LensSpec) -> None:
        """Give a request's lens its layers and a pool, which holds the stream of one position for the length of a step.

        Raises:
            SteeringFailedError: The layers cannot be read, or no pool is free.
        """
        sites = [self.shape.sites.of(RESID_POST, layer) for layer in asked.layers]
        if self.lens is not None and (refused := self.lens.refusal(asked.layers)):
            raise SteeringFailedError(refused)
        request.lens_layers = request.captured_layers = sites
        request.pools = [[Interval(request.n_prompt - 1, UNBOUNDED)]]
        if self.shape.captures:
            request.capture_rows = self.pools.take(1)

    def _guesses(self, request: LiveRequest) -> bool:
        """True if this worker answers what a request's lens has read."""
        return bool(request.lens_layers) and self.shape.captures and self.lens is not None and self.lens.ends

    def _keep_result(self, request: LiveRequest) -> None:
        self._results.keep(
            Finished(
                request,
                pooled=(
                    self.pools.read(request.capture_rows, request.captured_layers)
                    if request.capture_rows and request.error is None and not request.lens_layers
                    else None
                ),
                each=None if request.spool is None or request.error is not None else request.spool.read(),
                projects=request.monitored is not None and self.shape.captures,
                guesses=self._guesses(request),
            )
        )
