"""The logit lens on a worker: the tokens that a direction promotes and suppresses, through the model's own norm and head.

    logits(d) = (head(norm(s d)) - head(norm(-s d))) / 2        z = (logits - mean) / std, over the vocabulary

`norm` is the model's final norm and `head` its `compute_logits`: learned weights (Gemma's `1 + w` too), a LayerNorm's
centring, tied, quantised and vocabulary-parallel heads, scales of logits are what they are in generation. `s` gives the
direction a root mean square of 1, so that the norm's epsilon has no say. Half the difference leaves out what does not
depend on the direction: the biases of norm and head. Subtracting the mean over the vocabulary takes the mean row of the
unembedding out. A soft cap of logits keeps their order. Computed in the model's dtype.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from trait_service.engine.errors import UnsupportedModelError
from trait_service.engine.layer_lists import PLACEHOLDERS

FINAL_NORMS = ("norm", "final_norm", "norm_f", "ln_f", "final_layernorm", "final_layer_norm")
"""Names of the final norm, beside a list of layers that has other norms beside it."""

Ranked = dict[str, list[list[float]]]
"""`tokens` and `z`, each a list for each direction, in order."""


@torch.inference_mode()
def read(
    model: nn.Module, layers: Mapping[int, nn.Module], directions: np.ndarray, top_k: int, n_vocabulary: int
) -> dict[str, Ranked] | None:
    """Rank the vocabulary by each direction.

    Args:
        model: As loaded by vLLM.
        layers: Its decoder layers on this worker.
        directions: `(n, d_model)` float32, of any length but 0.
        top_k: Number of tokens at either end.
        n_vocabulary: Number of the tokenizer's tokens; rows of the head beyond them are padding.

    Returns:
        `promoted` and `suppressed`, the most extreme token first; None on a tensor-parallel rank that does not get the logits.

    Raises:
        UnsupportedModelError: The final norm was not found, or it does not take a layer's output.
    """
    head = Head(model, final_norm(model, layers))
    unit_rms = torch.from_numpy(directions / np.sqrt(np.mean(np.square(directions), axis=-1, keepdims=True)))
    with head.without_adapters():
        ends = [head.logits(signed) for signed in (unit_rms, -unit_rms)]
    if ends[0] is None or ends[1] is None:
        return None
    logits = (ends[0][:, :n_vocabulary].double() - ends[1][:, :n_vocabulary].double()) / 2
    z = (logits - logits.mean(-1, keepdim=True)) / logits.std(-1, keepdim=True)
    top_k = min(top_k, z.shape[-1])
    return {"promoted": _ranked(z.topk(top_k)), "suppressed": _ranked(z.topk(top_k, largest=False))}


def final_norm(model: nn.Module, layers: Mapping[int, nn.Module]) -> nn.Module:
    """The norm behind the last layer: the nearest one around the list of layers, and of several the one named as such.

    Args:
        model: As loaded by vLLM, on a worker that has the last layer.
        layers: Its decoder layers on this worker.

    Raises:
        UnsupportedModelError: There is none, or it cannot be distinguished from others.
    """
    last = layers[max(layers)]
    path = next(
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and last in set(module)
    )
    while path:
        path = path.rpartition(".")[0]
        found = {name: child for name, child in model.get_submodule(path).named_children() if _is_norm(child)}
        named = [name for name in FINAL_NORMS if name in found] or list(found)
        if len(named) == 1:
            return found[named[0]]
        if found:
            raise UnsupportedModelError(
                f"{type(model).__name__}: {', '.join(found)} beside its layers, and not exactly one of them named as a final norm "
                f"({', '.join(FINAL_NORMS)}): vectors of this model cannot be read through its head"
            )
    raise UnsupportedModelError(
        f"{type(model).__name__}: no norm was found behind its layers: vectors of this model cannot be read through its head"
    )


def _is_norm(module: nn.Module) -> bool:
    name = type(module).__name__
    return "norm" in name.lower() and name not in PLACEHOLDERS


class Head:
    """The model's own norm and unembedding, as it reads its last layer's output.

    Args:
        model: As loaded by vLLM.
        norm: Its final norm.
    """

    def __init__(self, model: Any, norm: nn.Module) -> None:
        self._model = model
        self._norm = norm

    def logits(self, stream: torch.Tensor) -> torch.Tensor | None:
        """Logits of a stream, `(n, d_model)` of any device and float type.

        Returns:
            `(n, n_vocabulary)`; None on a tensor-parallel rank that does not get the logits.

        Raises:
            UnsupportedModelError: The norm does not take a layer's output.
        """
        own = stream.to(*self._place)
        try:
            normed = self._norm(own)
        except (RuntimeError, TypeError) as error:
            raise UnsupportedModelError(
                f"{type(self._norm).__name__} of {type(self._model).__name__} does not take a layer's output: {error}"
            ) from error
        # Cohere's norm gives the residual back as well.
        read = normed[0] if isinstance(normed, tuple) else normed
        logits: torch.Tensor | None = self._model.compute_logits(read if self._divisor == 1.0 else read / self._divisor)
        return logits

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Let the head be the base model's: its wrappers add the adapters of whichever requests ran last."""
        for module in self._adapted:
            vars(module)["_get_logits"] = partial(_base_logits, module.base_layer._get_logits)  # noqa: SLF001 - vLLM has no other name
        try:
            yield
        finally:
            for module in self._adapted:
                del vars(module)["_get_logits"]

    @cached_property
    def _place(self) -> tuple[torch.device, torch.dtype]:
        """Device and dtype of the stream: the norm's own, which quantisation leaves alone."""
        parameters = (*self._norm.parameters(), *self._model.parameters())
        return next((p.device, p.dtype) for p in parameters if p.dtype.is_floating_point)

    @cached_property
    def _divisor(self) -> float:
        """The number that the model's forward divides the normed stream by before it computes logits: MiniCPM has one."""
        of_parts = (vars(part) for part in self._model.modules())
        return next((float(fields["scale_width"]) for fields in of_parts if "scale_width" in fields), 1.0)

    @cached_property
    def _adapted(self) -> list[Any]:
        """VLLM's wrappers of the head, which add adapters; empty where the engine has none."""
        from vllm.lora.layers.logits_processor import LogitsProcessorWithLoRA  # noqa: PLC0415 - where a lens is asked for

        return [module for module in self._model.modules() if isinstance(module, LogitsProcessorWithLoRA)]


def _ranked(top: "torch.return_types.topk") -> Ranked:
    return {"tokens": top.indices.tolist(), "z": top.values.tolist()}


def _base_logits(get: Callable[..., Any], hidden: torch.Tensor, head: Any, *args: Any, **kwargs: Any) -> Any:
    return get(hidden, getattr(head, "base_layer", head), *args, **kwargs)
