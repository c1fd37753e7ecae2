"""The check of a model's first forward pass: each layer is called once, and returns the residual stream of every token.

It runs in the operation's body, where tensors are real: eager, compiled and cached graphs are checked alike, and later
passes do not pay for it.
"""

from typing import TYPE_CHECKING

import torch

from trait_service.engine.errors import UnsupportedModelError

if TYPE_CHECKING:
    from trait_service.engine.state import SteeringState


class FirstPass:
    """Check one forward pass and act as the state does.

    Args:
        state: The state that acts; `state.unchecked` holds the class of each layer on this worker.
    """

    def __init__(self, state: "SteeringState") -> None:
        self._state = state
        self._called: set[int] = set()

    def intervene(self, residual: torch.Tensor, hidden: torch.Tensor | None, layer: int) -> None:
        """Check a layer's output, then act on it.

        Raises:
            UnsupportedModelError: The output is not the stream of every token, or the layer was called before.
        """
        name, d_model = self._state.unchecked[layer], self._state.shape.d_model
        halves = [residual] if hidden is None else [hidden, residual]
        shapes = [tuple(half.shape) for half in halves]
        if any(len(shape) != 2 or shape[1] != d_model for shape in shapes) or len(set(shapes)) != 1:
            raise UnsupportedModelError(
                f"{name} (layer {layer}) returns shape {' and '.join(map(str, shapes))}: the service steers layers that "
                f"return (n_tokens, {d_model}) or (1, n_tokens, {d_model}), one row for each token of the step"
            )
        if layer in self._called:
            raise UnsupportedModelError(
                f"{name} (layer {layer}) is called twice in one forward pass: a model that repeats its layers would be "
                "steered and captured in each round, and is not supported"
            )
        self._called.add(layer)
        self._state.intervene(residual, hidden, layer)

    def settle(self) -> None:
        """End the pass: later ones are not checked, unless this one did not reach the model.

        Raises:
            UnsupportedModelError: Some layers were called, others were not.
        """
        missed = sorted(self._state.unchecked.keys() - self._called)
        if self._called and missed:
            raise UnsupportedModelError(
                f"layers {', '.join(map(str, missed))} ({self._state.unchecked[missed[0]]}) are not called in a forward "
                "pass: steering them would have no effect, and the model is not supported"
            )
        if self._called:
            self._state.unchecked = {}
