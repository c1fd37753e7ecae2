"""The one custom operation: steer, then capture and monitor, at the output of one decoder layer.

`torch.ops.trait_steering.intervene(residual, hidden, layer)` is opaque to torch.compile: the graph holds the layer's
number and nothing else, so that cached graphs are valid for every engine. What it does comes from the state that the
model runner bound around the forward pass; unbound (profiling, warm-up on the CPU) it does nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.library import Library

from trait_service.engine.first_pass import FirstPass

if TYPE_CHECKING:
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


def register() -> None:
    """Register the operation in this process; a second call does nothing."""
    if _libraries:
        return
    from vllm.utils.torch_utils import direct_register_custom_op  # noqa: PLC0415 - the plugin loads before vllm is whole

    library = Library(NAMESPACE, "FRAGMENT")
    direct_register_custom_op(
        "intervene", _intervene, mutates_args=["residual"], fake_impl=_intervene_fake, target_lib=library
    )
    _libraries.append(library)


def intervene(residual: torch.Tensor, hidden: torch.Tensor | None, layer: int) -> None:
    """Steer, capture and monitor the residual stream after one decoder layer.

    Traced it is one opaque operation; eager it is a plain call, without the cost of a dispatch.

    Args:
        residual: `(n_tokens_padded, d_model)`, changed in place: deltas are added here.
        hidden: `(n_tokens_padded, d_model)`: the other half of a split stream (stream = residual + hidden), or None
            where `residual` is the whole stream.
        layer: 0-based decoder block.
    """
    if torch.compiler.is_compiling():
        torch.ops.trait_steering.intervene(residual, hidden, layer)
    else:
        _intervene(residual, hidden, layer)


def _intervene(residual: torch.Tensor, hidden: torch.Tensor | None, layer: int) -> None:
    if _bound:
        _bound[-1].intervene(residual, hidden, layer)


def _intervene_fake(residual: torch.Tensor, hidden: torch.Tensor | None, layer: int) -> None:
    del residual, hidden, layer
