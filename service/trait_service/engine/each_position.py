"""Activations of every position: written to disk layer by layer, as each step computes them.

This needs the host at each layer of each step, which a captured CUDA graph does not allow.
"""

import numpy as np
import torch
from trait_core.errors import SteeringFailedError

from trait_service.engine.batch import Intervals, LiveBatch, Step
from trait_service.engine.requests import LiveRequest
from trait_service.engine.spool import Spool


class Spools:
    """The spools of live requests.

    Args:
        d_model: Width of the residual stream.
        max_bytes: Largest size on disk, over all spools.
        writes: This worker keeps captures (one worker does under tensor parallelism).
        refusal: Reason why no request may have a spool; None if they may.
    """

    def __init__(self, d_model: int, max_bytes: int, *, writes: bool, refusal: str | None) -> None:
        self._d_model = d_model
        self._max_bytes = max_bytes
        self._writes = writes
        self._refusal = refusal
        self._held = 0
        self._now: list[tuple[LiveRequest, torch.Tensor]] = []

    @property
    def active(self) -> bool:
        """True if the next forward pass has positions to keep."""
        return bool(self._now)

    def equip(self, request: LiveRequest) -> None:
        """Give a request its spool.

        Raises:
            SteeringFailedError: This engine cannot keep every position.
        """
        if self._refusal is not None:
            raise SteeringFailedError(self._refusal)
        if self._writes:
            request.spool = Spool(request.captured_layers, self._d_model)

    def prepare(self, step: Step, batch: LiveBatch) -> None:
        """Find the step's positions to keep; one that is computed again is left out."""
        asking = [(index, request) for index, request in batch.live if request.spool is not None and not request.error]
        if not asking:
            self._now = []
            return
        self._now = []
        for index, request in asking:
            entries = np.array([(index, *each) for each in request.pools[0]], dtype=np.int64).reshape(-1, 4)
            places = Intervals.of(*entries.T).spans(step, after=batch.computed_to).places()
            if len(places):
                self._now.append((request, torch.from_numpy(np.sort(places))))

    def rest(self) -> None:
        """Note that the next forward pass has nothing to keep."""
        self._now = []

    def keep(self, residual: torch.Tensor, hidden: torch.Tensor | None, layer: int, *, before_steering: bool) -> None:
        """Write one layer's stream at the step's positions.

        Args:
            residual: `(n_tokens, d_model)`.
            hidden: `(n_tokens, d_model)` or None: the other half of the stream.
            layer: 0-based decoder block.
            before_steering: Serve the requests that ask for the stream before steering, or those after it.
        """
        for request, places in self._now:
            capture, spool = request.spec.capture, request.spool
            if capture is None or spool is None or request.error or capture.before_steering != before_steering:
                continue
            if layer not in request.captured_layers:
                continue
            size = len(places) * self._d_model * 4
            if self._held + size > self._max_bytes:
                request.error = (
                    f"activations of every position would hold more than {self._max_bytes} bytes on disk: ask for fewer "
                    "layers, positions or texts at once, or start the service with a larger --max-spool-bytes"
                )
                continue
            at = places.to(residual.device)
            stream = residual[at].to(torch.float32)
            if hidden is not None:
                stream = stream + hidden[at]
            spool.write(layer, stream.cpu().numpy())
            self._held += size

    def release(self, request: LiveRequest) -> None:
        """Free the spool of a request that has left the engine."""
        if request.spool is not None:
            self._held -= request.spool.n_bytes
            request.spool.close()
            request.spool = None
