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
        state: The state that acts; `state.unchecked` holds the class at each site on this worker.
    """

    def __init__(self, state: "SteeringState") -> None:
        self._state = state
        self._called: set[int] = set()
        from vllm import forward_context  # noqa: PLC0415 - the plugin loads before vllm is whole

        self._forward_context = forward_context

    def intervene(self, residual: torch.Tensor, hidden: torch.Tensor | None, layer: int) -> None:
        """Check a layer's output, then act on it.

        Raises:
            UnsupportedModelError: The output is not the stream of every token, or the layer was called before.
        """
        name, where = self._state.unchecked[layer], self._state.shape.sites.name(layer)
        d_model = self._state.shape.d_model
        halves = [residual] if hidden is None else [hidden, residual]
        shapes = [tuple(half.shape) for half in halves]
        if any(len(shape) != 2 or shape[1] != d_model for shape in shapes) or len(set(shapes)) != 1:
            raise UnsupportedModelError(
                f"{name} ({where}) returns shape {' and '.join(map(str, shapes))}: the service steers layers that "
                f"return (n_tokens, {d_model}) or (1, n_tokens, {d_model}), one row for each token of the step"
            )
        n_tokens = self._n_tokens()
        if n_tokens is not None and shapes[0][0] != n_tokens:
            raise UnsupportedModelError(
                f"{name} ({where}) returns {shapes[0][0]} rows in a step of {n_tokens} tokens, padding included: the "
                "service steers layers that return one row for each token"
            )
        if layer in self._called:
            raise UnsupportedModelError(
                f"{name} ({where}) is called twice in one forward pass: a model that repeats its layers would be "
                "steered and captured in each round, and is not supported (weights that are offloaded without UVA have the "
                "same effect)"
            )
        self._called.add(layer)
        self._state.intervene(residual, hidden, layer)

    def _n_tokens(self) -> int | None:
        """Rows of the step's activations, padding included; None where vLLM does not say."""
        if not self._forward_context.is_forward_context_available():
            return None
        descriptor = self._forward_context.get_forward_context().batch_descriptor
        return None if descriptor is None else descriptor.num_tokens

    def settle(self) -> None:
        """End the pass: later ones are not checked, unless this one did not reach the model.

        Raises:
            UnsupportedModelError: Some layers were called, others were not.
        """
        missed = sorted(self._state.unchecked.keys() - self._called)
        if self._called and missed:
            raise UnsupportedModelError(
                f"{self._state.shape.sites.names(missed)} ({self._state.unchecked[missed[0]]}) are not called in a forward "
                "pass: steering them would have no effect, and the model is not supported"
            )
        if self._called:
            self._state.unchecked = {}
