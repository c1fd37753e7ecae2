"""The lens in a stream: what the model would say from a layer, at each position that produces a generated token.

The kernel that steers and captures leaves the stream of such a position in a row of the pools, as it leaves any other sum
there. Behind the forward pass, outside CUDA graphs, the rows of the layers that are asked for go through the model's own norm
and head (`lens`), and are zeroed. A step has at most one such position of a request.

Tensor parallelism: the rank that captures sends the streams to the others, since each has a part of the head. Pipeline
parallelism: the last stage has norm and head, so that its layers alone can be read. Neither has been run on GPUs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from trait_core.intervals import UNBOUNDED

from trait_service.engine import lens
from trait_service.engine.batch import Intervals, LiveBatch, Step
from trait_service.engine.buffers import HostCopy, on_device
from trait_service.engine.capture_rows import NORM_WORDS, CaptureRows
from trait_service.engine.errors import UnsupportedModelError
from trait_service.engine.requests import LiveRequest

STREAMS_AT_ONCE = 64
"""Streams that go through the head together: their logits are as many rows as those of a step, or fewer."""

NO_TOKEN = -1
"""In place of a token id: the vocabulary has no more."""

TWO_POSITIONS = "the lens read {n} positions of one step: a request with a lens generates one token at a time"


class StreamLens:
    """The model's norm and head, for the streams of a step.

    Args:
        model: As loaded by vLLM.
        layers: Its decoder layers on this worker.
        n_layers: Decoder blocks of the whole model.
        max_requests: Largest number of requests in one batch.
        ends: This worker has the last layer, and with it norm and head.
        captures: This worker keeps captures (one worker does under tensor parallelism).
        n_ranks: Tensor-parallel ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[int, nn.Module],
        n_layers: int,
        max_requests: int,
        *,
        ends: bool,
        captures: bool,
        n_ranks: int,
    ) -> None:
        self._head: lens.Head | None = None
        self._at_once = min(STREAMS_AT_ONCE, max_requests)
        self._captures = captures
        self._n_ranks = n_ranks
        self._refused: str | None = None
        self.first_layer = min(layers, default=n_layers)
        self.ends = ends
        if ends:
            try:
                self._head = lens.Head(model, lens.final_norm(model, layers))
            except UnsupportedModelError as error:
                self._refused = str(error)

    def refusal(self, layers: list[int]) -> str | None:
        """The sentence that refuses layers; None if they can be read, or another worker reads them."""
        if not self.ends:
            return None
        if self._refused is None and min(layers) < self.first_layer:
            return early(min(layers), self.first_layer)
        return self._refused

    def describe(self) -> dict[str, Any] | None:
        """The first layer that can be read, and the reason why none can be; None on a worker without the head."""
        if not self.ends:
            return None
        return {"first_layer": self.first_layer, "refusal": self._refused}

    def read(self, batch: LiveBatch, step: Step, computed_to: np.ndarray, pools: CaptureRows) -> "StepGuesses | None":
        """Read the streams that the step has left in the pools, and zero them; None if there are none.

        Args:
            batch: The requests of the step.
            step: Its tokens.
            computed_to: `(n_requests_of_the_batch,)`: positions below were read before.
            pools: Where the streams are.
        """
        if not batch.lens_requests or not self.ends:
            return None
        index = np.array([place for place, _ in batch.lens_requests], dtype=np.int64)
        first = np.array([request.n_prompt - 1 for _, request in batch.lens_requests], dtype=np.int64)
        length = Intervals(index, first, np.full_like(first, UNBOUNDED)).spans(step, after=computed_to).length
        reading = []
        for (_, request), n in zip(batch.lens_requests, length.tolist(), strict=True):
            if n > 1:
                request.error = TWO_POSITIONS.format(n=n)
            if n:
                reading.append(request)
        if not reading:
            return None
        try:
            read = self._guess(self._streams(reading, pools), max(request.top_k for request in reading))
        except UnsupportedModelError as error:
            for request in reading:
                request.error = str(error)
            return None
        return StepGuesses(HostCopy(read), reading) if read is not None and self._captures else None

    @torch.inference_mode()
    def _streams(self, reading: list[LiveRequest], pools: CaptureRows) -> torch.Tensor:
        """`(n_streams, d_model)` float32: each request's layers, one request after the other; 0 for one that failed."""
        n_kinds, n_sites, width = pools.store.shape[1:]
        layers = [np.array(request.lens_layers, dtype=np.int64) for request in reading]
        row = [request.capture_rows[0] if request.capture_rows else -1 for request in reading]
        rows = np.repeat(row, [len(each) for each in layers])
        streams = torch.zeros((len(rows), width - NORM_WORDS), dtype=torch.float32, device=pools.store.device)
        filled = np.flatnonzero(rows >= 0)
        if len(filled):
            kinds = rows[filled][:, None] * n_kinds + np.arange(n_kinds)
            places = kinds * n_sites + np.concatenate(layers)[filled][:, None]
            at, flat = on_device(places.ravel(), streams.device), pools.store.view(-1, width)
            found = flat.index_select(0, at).view(len(filled), n_kinds, width).sum(1)
            streams.index_copy_(0, on_device(filled, streams.device), found[:, :-NORM_WORDS])
            flat.index_fill_(0, at, 0.0)
        if self._n_ranks == 1:
            return streams
        from vllm.distributed import get_tp_group  # noqa: PLC0415 - heavy, for who only reads a state

        sent: torch.Tensor = get_tp_group().broadcast(streams, src=0)
        return sent

    @torch.inference_mode()
    def _guess(self, streams: torch.Tensor, top_k: int) -> torch.Tensor | None:
        """`(n_streams, 2, top_k)` float32: token ids and their log-probabilities; None on a rank that does not get the logits.

        Raises:
            UnsupportedModelError: The norm does not take a layer's output.
        """
        assert self._head is not None, "a model without a final norm is refused"
        parts = []
        with self._head.without_adapters():
            for part in streams.split(self._at_once):
                logits = self._head.logits(part)
                if logits is not None:
                    parts.append(_likeliest(logits.to(torch.float32), top_k))
        return torch.cat(parts) if parts else None


def _likeliest(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """As `StreamLens._guess`; a vocabulary of fewer tokens leaves `NO_TOKEN`.

    Ids are exact in float32 up to 16,777,216, which no vocabulary reaches.
    """
    top = logits.topk(min(top_k, logits.shape[-1]))
    found = torch.full((len(logits), 2, top_k), NO_TOKEN, dtype=torch.float32, device=logits.device)
    found[:, 0, : top.indices.shape[-1]] = top.indices
    found[:, 1, : top.indices.shape[-1]] = top.values - logits.logsumexp(-1, keepdim=True)
    return found


@dataclass(eq=False)
class StepGuesses:
    """Tokens that the model would say at the positions of one step.

    Args:
        values: `(n_streams, 2, top_k)` float32, on their way: token ids and log-probabilities.
        requests: The requests, whose layers follow one another in the values.
    """

    values: HostCopy
    requests: list[LiveRequest]

    def deliver(self) -> None:
        """Hand each request its guesses; waits for the device."""
        values, begin = self.values.read().numpy(), 0
        for request in self.requests:
            end = begin + len(request.lens_layers)
            request.guesses.append(values[begin:end, :, : request.top_k].reshape(1, -1))
            begin = end


def early(layer: int, first: int) -> str:
    """The sentence that refuses a layer of another stage."""
    return (
        f"the lens cannot read layer {layer} with pipeline parallelism: the model's norm and unembedding are on the last stage, which "
        f"has the layers from {first} on"
    )
