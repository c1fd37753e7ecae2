"""The one custom operation: steer, then capture and monitor, at the output of one decoder layer.

`torch.ops.trait_steering.intervene(residual, hidden, layer)` is opaque to torch.compile: the graph holds the layer's
number and nothing else, so that cached graphs are valid for every engine. The number is vLLM's `LayerName`, an input of the
compiled code and no constant in it, so that vLLM compiles equal layers once. What the operation does comes from the state
that the model runner bound around the forward pass; unbound it does nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.compiler import is_compiling
from torch.library import Library

from trait_service.engine.first_pass import FirstPass

if TYPE_CHECKING:
    from vllm.utils.torch_utils import LayerName

    from trait_service.engine.state import SteeringState

NAMESPACE = "trait_steering"

_bound: list["SteeringState | FirstPass"] = []
_libraries: list[Library] = []


@contextmanager
def bound(state: "SteeringState") -> Iterator[None]:
    """Let the operation act on `state` while one forward pass runs (or a CUDA graph is captured).

    Raises:
        UnsupportedModelError: The model's first pass shows that it cannot be steered.
    """
    first_pass = FirstPass(state) if state.unchecked else None
    _bound.append(first_pass or state)
    try:
        yield
    finally:
        _bound.pop()
    if first_pass is not None:
        first_pass.settle()


@contextmanager
def unbound() -> Iterator[None]:
    """Let the operation do nothing, whatever is bound: a CUDA graph captured meanwhile holds no launch of ours."""
    bound_outside = _bound.copy()
    _bound.clear()
    try:
        yield
    finally:
        _bound[:] = bound_outside


def register() -> None:
    """Register the operation in this process; a second call does nothing."""
    if _libraries:
        return
    # The plugin loads before vllm is whole. The schema is read from the body's annotations: they must be real classes.
    from vllm.utils.torch_utils import LayerName, direct_register_custom_op  # noqa: PLC0415

    def body(residual: torch.Tensor, hidden: torch.Tensor | None, layer: LayerName) -> None:
        if _bound:
            _bound[-1].intervene(residual, hidden, int(layer.value))

    def fake(residual: torch.Tensor, hidden: torch.Tensor | None, layer: LayerName) -> None:
        del residual, hidden, layer

    library = Library(NAMESPACE, "FRAGMENT")
    direct_register_custom_op("intervene", body, mutates_args=["residual"], fake_impl=fake, target_lib=library)
    _libraries.append(library)


def intervene(residual: torch.Tensor, hidden: torch.Tensor | None, layer: int, name: "LayerName") -> None:
    """Steer, capture and monitor the residual stream after one decoder layer, or what a branch of the layer adds to it.

    Traced it is one opaque operation; eager it is a plain call, without the cost of a dispatch.

    Args:
        residual: `(n_tokens_padded, d_model)`, changed in place: deltas are added here.
        hidden: `(n_tokens_padded, d_model)`: the other half of a split stream (stream = residual + hidden), or None
            where `residual` is the whole stream, or what a branch adds.
        layer: The site, as `Sites` numbers it: for the stream, the 0-based decoder block.
        name: The same number as a graph takes it: a `LayerName` that lives as long as the model.
    """
    if is_compiling():
        torch.ops.trait_steering.intervene(residual, hidden, name)
    elif _bound:
        _bound[-1].intervene(residual, hidden, layer)
