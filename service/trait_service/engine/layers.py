"""Finding a model's decoder layers and putting the operation at their output."""

import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trait_service.engine.errors import UnsupportedModelError
from trait_service.engine.operation import intervene

if TYPE_CHECKING:
    from vllm.utils.torch_utils import LayerName

    from trait_service.engine.state import SteeringState

Stream = tuple[torch.Tensor, torch.Tensor | None]
"""`(residual, hidden)`: the stream is their sum, or `residual` alone."""


def summed(output: Any) -> Stream:
    """The stream of a layer that leaves the addition of its own result to the next norm: `hidden + residual`."""
    hidden, residual = output
    return residual, hidden


VLLM_MODELS = "vllm.model_executor.models."

TUPLES: dict[str, Callable[[Any], Stream]] = dict.fromkeys(
    (
        "apertus.ApertusDecoderLayer",
        "gemma.GemmaDecoderLayer",
        "gemma2.Gemma2DecoderLayer",
        "gemma3.Gemma3DecoderLayer",
        "glm4.Glm4DecoderLayer",
        "internlm2.InternLMDecoderLayer",
        "llama.LlamaDecoderLayer",
        "llama4.Llama4DecoderLayer",
        "mistral.MistralDecoderLayer",
        "mixtral.MixtralDecoderLayer",
        "qwen2.Qwen2DecoderLayer",
        "qwen2_moe.Qwen2MoeDecoderLayer",
        "qwen3.Qwen3DecoderLayer",
        "qwen3_moe.Qwen3MoeDecoderLayer",
    ),
    summed,
)
"""Layers that return a tuple: the class whose `forward` runs, in vLLM's models, and how its stream is read.

Llama and Gemma 3 are proven by parity tests; the others were read in vLLM 0.32. Not every pair is a sum (Cohere's second
half is the layer's input), and other libraries have layers of the same names, so that any other tuple is an error.
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


def attach(layers: dict[int, nn.Module], state: "SteeringState") -> None:
    """Put the operation at the output of each layer; `state` is to check the outputs in the first forward pass."""
    from vllm.utils.torch_utils import LayerName  # noqa: PLC0415 - heavy, for who only finds layers

    for index, layer in layers.items():
        layer.register_forward_hook(partial(_after_layer, index, LayerName(str(index)), tuple_reader(type(layer))))
    state.unchecked = {index: type(layer).__name__ for index, layer in layers.items()}


def tuple_reader(layer: type[nn.Module]) -> Callable[[Any], Stream] | None:
    """How to read the stream from a tuple that this class of layer returns; None if that is not known.

    A subclass with a `forward` of its own is another class: it may return something else.
    """
    owner = next(base for base in layer.__mro__ if "forward" in vars(base))
    name = f"{owner.__module__}.{owner.__qualname__}"
    return TUPLES.get(name.removeprefix(VLLM_MODELS)) if name.startswith(VLLM_MODELS) else None


def _after_layer(
    index: int,
    name: "LayerName",
    read_tuple: Callable[[Any], Stream] | None,
    layer: nn.Module,
    _: object,
    output: Any,
) -> None:
    if isinstance(output, torch.Tensor):
        # vLLM's Transformers backend runs its models with a batch of one. A view, so that changes reach the output.
        batch_of_one = output.ndim == 3 and output.shape[0] == 1
        intervene(output.squeeze(0) if batch_of_one else output, None, index, name)
    elif read_tuple is None:
        _refuse(type(layer).__name__, type(output).__name__)
    else:
        residual, hidden = read_tuple(output)
        intervene(residual, hidden, index, name)


@torch.compiler.assume_constant_result  # called while Dynamo traces, which would put its own words around an error
def _refuse(layer: str, kind: str) -> None:
    raise UnsupportedModelError(
        f"{layer} returns a {kind} whose meaning is not known: "
        "the service steers layers that return one tensor, or a known (hidden_states, residual) pair"
    )
