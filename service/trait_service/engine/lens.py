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
from functools import partial
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
    norm = final_norm(model, layers)
    unit_rms = directions / np.sqrt(np.mean(np.square(directions), axis=-1, keepdims=True))
    stream = torch.from_numpy(unit_rms).to(*place_of(norm, model))
    with without_adapters(adapted_heads(model)):
        ends = [logits_of(model, norm, signed) for signed in (stream, -stream)]
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


def place_of(norm: nn.Module, model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the stream: the norm's own, which quantisation leaves alone."""
    return next((p.device, p.dtype) for p in (*norm.parameters(), *model.parameters()) if p.dtype.is_floating_point)


def logits_of(model: Any, norm: nn.Module, stream: torch.Tensor) -> torch.Tensor | None:
    """Logits that the model's norm and head make of a stream.

    Args:
        model: As loaded by vLLM.
        norm: Its final norm.
        stream: `(n, d_model)` of the model's device and dtype.

    Returns:
        `(n, n_vocabulary)`; None on a tensor-parallel rank that does not get the logits.

    Raises:
        UnsupportedModelError: The norm does not take a layer's output.
    """
    try:
        normed = norm(stream)
    except (RuntimeError, TypeError) as error:
        raise UnsupportedModelError(
            f"{type(norm).__name__} of {type(model).__name__} does not take a layer's output: {error}"
        ) from error
    # Cohere's norm gives the residual back as well.
    read = normed[0] if isinstance(normed, tuple) else normed
    logits: torch.Tensor | None = model.compute_logits(read / divisor if (divisor := _divisor(model)) != 1.0 else read)
    return logits


def _divisor(model: nn.Module) -> float:
    """The number that a model's forward divides the normed stream by before it computes logits: MiniCPM has one."""
    return next((float(vars(part)["scale_width"]) for part in model.modules() if "scale_width" in vars(part)), 1.0)


def _ranked(top: "torch.return_types.topk") -> Ranked:
    return {"tokens": top.indices.tolist(), "z": top.values.tolist()}


def adapted_heads(model: nn.Module) -> list[Any]:
    """VLLM's wrappers of the head, which add adapters; empty where the engine has none."""
    from vllm.lora.layers.logits_processor import LogitsProcessorWithLoRA  # noqa: PLC0415 - where a lens is asked for

    return [module for module in model.modules() if isinstance(module, LogitsProcessorWithLoRA)]


@contextmanager
def without_adapters(wrapped: list[Any]) -> Iterator[None]:
    """Let the head be the base model's: its wrappers add the adapters of whichever requests ran last."""
    for module in wrapped:
        vars(module)["_get_logits"] = partial(_base_logits, module.base_layer._get_logits)  # noqa: SLF001 - vLLM has no other name
    try:
        yield
    finally:
        for module in wrapped:
            del vars(module)["_get_logits"]


def _base_logits(get: Callable[..., Any], hidden: torch.Tensor, head: Any, *args: Any, **kwargs: Any) -> Any:
    return get(hidden, getattr(head, "base_layer", head), *args, **kwargs)
