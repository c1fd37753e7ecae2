"""The shape of one worker's model, and the worker's place in the engine."""

from dataclasses import dataclass
from functools import cached_property

import torch
from trait_core.errors import SteeringFailedError
from trait_core.schema import HEAD_OUT, HookPoint

from trait_service.engine.head_shape import HeadShape
from trait_service.engine.sites import Sites, missing
from trait_service.engine.spec import CaptureSpec


@dataclass(frozen=True)
class EngineShape:
    """One worker's model and its place in the engine.

    Args:
        n_layers: Decoder blocks of the model.
        d_model: Width of the residual stream.
        max_requests: Largest number of requests in one batch.
        max_tokens: Largest number of tokens in one step.
        device: The model's device.
        asynchronous: A step is prepared while the last one runs: a request may be computed one position past its end.
        captures: This worker keeps captures and projections (one worker does under tensor parallelism).
        sees_all_layers: False for a stage of a pipeline: it cannot act on what another one sees.
        each_position: Every position can be kept; this needs the host at each layer of each step.
        hook_points: Hook points beside `resid_post`.
        heads: The attention heads, if they can be captured.
    """

    n_layers: int
    d_model: int
    max_requests: int
    max_tokens: int
    device: torch.device
    asynchronous: bool = False
    captures: bool = True
    sees_all_layers: bool = True
    each_position: bool = True
    hook_points: tuple[HookPoint, ...] = ()
    heads: HeadShape | None = None

    @cached_property
    def sites(self) -> Sites:
        """Where the worker steers, captures and monitors."""
        return Sites(self.n_layers, self.hook_points, 0 if self.heads is None else self.heads.n_rows)

    def captured_sites(self, capture: CaptureSpec) -> list[int]:
        """The sites that a capture keeps, layer after layer.

        Raises:
            SteeringFailedError: The engine does not have one of them.
        """
        layers = range(self.n_layers) if capture.layers is None else capture.layers
        if capture.at != HEAD_OUT:
            return [self.sites.of(capture.at, layer) for layer in layers]
        if self.heads is None:
            raise SteeringFailedError(missing(HEAD_OUT))
        if capture.head is not None and capture.head >= self.heads.n_heads:
            raise SteeringFailedError(f"head {capture.head} is out of range: 0..{self.heads.n_heads - 1}")
        return [self.sites.of_heads(layer, row) for layer in layers for row in self.heads.rows(capture.head)]
