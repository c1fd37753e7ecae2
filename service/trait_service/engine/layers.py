"""Finding a model's decoder layers and putting the operation at their output."""

import re
from collections import defaultdict
from functools import partial
from typing import Any

import torch
from torch import nn

from trait_service.engine.errors import UnsupportedModelError
from trait_service.engine.operation import intervene

SPLIT_STREAM_LAYERS = frozenset(
    {
        "ApertusDecoderLayer",
        "Gemma2DecoderLayer",
        "Gemma3DecoderLayer",
        "GemmaDecoderLayer",
        "Glm4DecoderLayer",
        "InternLMDecoderLayer",
        "Llama4DecoderLayer",
        "LlamaDecoderLayer",
        "MistralDecoderLayer",
        "MixtralDecoderLayer",
        "Qwen2DecoderLayer",
        "Qwen2MoeDecoderLayer",
        "Qwen3DecoderLayer",
        "Qwen3MoeDecoderLayer",
    }
)
"""Layers that return `(hidden_states, residual)` whose sum is the residual stream.

Llama and Gemma 3 are proven by parity tests; the others were read in vLLM 0.32. Not every pair is a split stream
(Cohere's residual is the layer's input), so that an unknown pair is an error at start-up.
"""

_LAYER_NAME = re.compile(r"^(.*\blayers)\.(\d+)$")


def decoder_layers(model: nn.Module, n_layers: int) -> dict[int, nn.Module]:
    """The decoder blocks of a model on this worker, by index.

    Args:
        model: As loaded by vLLM.
        n_layers: Number of blocks in the config; all must exist (as placeholders under pipeline parallelism).

    Raises:
        UnsupportedModelError: No list of `n_layers` blocks, or more than one.
    """
    found: dict[str, dict[int, nn.Module]] = defaultdict(dict)
    for name, module in model.named_modules():
        match = _LAYER_NAME.match(name)
        if match is not None:
            found[match.group(1)][int(match.group(2))] = module
    lists = {prefix: layers for prefix, layers in found.items() if sorted(layers) == list(range(n_layers))}
    if len(lists) != 1:
        counts = {prefix: len(layers) for prefix, layers in found.items()}
        raise UnsupportedModelError(
            f"{type(model).__name__}: expected one list of {n_layers} decoder layers, found {counts or 'none'}"
        )
    (layers,) = lists.values()
    return {i: layer for i, layer in layers.items() if type(layer).__name__ != "PPMissingLayer"}


def attach(layers: dict[int, nn.Module]) -> None:
    """Put the operation at the output of each layer."""
    for index, layer in layers.items():
        split = any(base.__name__ in SPLIT_STREAM_LAYERS for base in type(layer).__mro__)
        layer.register_forward_hook(partial(_after_layer, index, split))


def _after_layer(index: int, split: bool, layer: nn.Module, _: object, output: Any) -> None:
    if isinstance(output, torch.Tensor):
        intervene(output, None, index)
        return
    if not split:
        raise UnsupportedModelError(
            f"{type(layer).__name__} returns a {type(output).__name__} whose meaning is not known: "
            "the service steers layers that return one tensor, or a known (hidden_states, residual) pair"
        )
    hidden, residual = output
    intervene(residual, hidden, index)
