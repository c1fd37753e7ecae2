"""Putting the operation at the output of each decoder layer, by the rule that says what the layer returns."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trait_service.engine import layer_rules
from trait_service.engine.errors import UnsupportedModelError
from trait_service.engine.layer_rules import Rule
from trait_service.engine.operation import intervene

if TYPE_CHECKING:
    from vllm.utils.torch_utils import LayerName

    from trait_service.engine.state import SteeringState

Stream = tuple[torch.Tensor, torch.Tensor | None]
"""`(residual, hidden)`: the stream is their sum, or `residual` alone."""

TRANSFORMERS_MODELS = "transformers.models."
"""Layers of transformers itself, which vLLM's Transformers backend runs."""


def attach(layers: dict[int, nn.Module], state: "SteeringState") -> None:
    """Put the operation at the output of each layer; `state` is to check the outputs in the first forward pass.

    Raises:
        UnsupportedModelError: A layer's class is in no table, or in that of the refused ones; or a `--layer-rule` names no
            layer.
    """
    from vllm.utils.torch_utils import LayerName  # noqa: PLC0415 - heavy, for who only finds layers

    given = dict(layer_rules.parsed(text) for text in state.settings.layer_rule)
    read = {index: reader(layer, given) for index, layer in layers.items()}
    classes = {class_name(type(layer)) for layer in layers.values()}
    if given.keys() - classes and layers:
        raise UnsupportedModelError(
            f"{layer_rules.OPTION} names {', '.join(sorted(given.keys() - classes))}, and the model's layers are "
            f"{', '.join(sorted(classes))}"
        )
    for index, layer in layers.items():
        layer.register_forward_hook(partial(_after_layer, index, LayerName(str(index)), read[index]))
    state.unchecked |= {index: type(layer).__name__ for index, layer in layers.items()}


def refuse(layers: dict[int, nn.Module], dtype: torch.dtype, tensor_parallel_size: int) -> None:
    """Refuse layers that are known, in an engine in which their rule does not hold.

    Args:
        layers: The decoder layers on this worker.
        dtype: Dtype of the activations.
        tensor_parallel_size: Number of ranks that share a layer.

    Raises:
        UnsupportedModelError: They scale the stream in float16, or leave its sum over the ranks to the next layer.
    """
    classes = {class_name(type(layer)) for layer in layers.values()}
    scaled = sorted(classes & set(layer_rules.SCALED_IN_FLOAT16))
    if scaled and dtype == torch.float16:
        raise UnsupportedModelError(
            f"{scaled[0]} divides its stream by a constant in float16, so that a vector would act several times too strongly: "
            "start with --dtype bfloat16"
        )
    partial_sums = sorted(classes & set(layer_rules.REDUCED_BY_THE_NEXT_NORM))
    if partial_sums and tensor_parallel_size > 1:
        raise UnsupportedModelError(
            f"{partial_sums[0]} leaves the sum over tensor-parallel ranks to the next layer, so that no rank has its output: "
            "the model is supported on one GPU only (--tensor-parallel-size 1)"
        )


def class_name(layer: type[nn.Module]) -> str:
    """The class whose `forward` a layer runs, as the tables of `layer_rules` name it."""
    owner = _owner(layer)
    return f"{owner.__module__}.{owner.__qualname__}".removeprefix(layer_rules.VLLM_MODELS)


def reader(layer: nn.Module, given: Mapping[str, Rule]) -> Callable[[Any], Stream | None]:
    """How to find the stream in what a layer returns: a function that gives None for a result of another form.

    Args:
        layer: A decoder layer.
        given: Rules of `--layer-rule`, by class.

    Raises:
        UnsupportedModelError: The class is in no table, or in that of the refused ones.
    """
    kind = type(layer)
    name = class_name(kind)
    if name in layer_rules.REFUSED:
        raise UnsupportedModelError(f"{name} is not supported: {layer_rules.REFUSED[name]}")
    known = layer_rules.RULES.get(name)
    if getattr(layer, layer_rules.PAIR_WHERE_SET.get(name, ""), False):
        known = "pair"
    if known and given.get(name, known) != known:
        raise UnsupportedModelError(f"{layer_rules.OPTION} says {given[name]} of {name}, which is known to be {known}")
    rule = known or given.get(name)
    if rule is None and name.startswith(TRANSFORMERS_MODELS):
        return partial(_without_batch, _of_transformers)
    if rule is None:
        raise UnsupportedModelError(_unknown(kind, name))
    read = _READERS[rule]
    return read if _owner(kind).__module__.startswith("vllm.") else partial(_without_batch, read)


def _pair(output: Any) -> Stream | None:
    if not isinstance(output, tuple) or len(output) != 2:
        return None
    hidden, residual = output
    both = isinstance(hidden, torch.Tensor) and isinstance(residual, torch.Tensor)
    return (residual, hidden) if both else None


def _first(output: Any) -> Stream | None:
    return (output[0], None) if isinstance(output, tuple) and isinstance(output[0], torch.Tensor) else None


def _single(output: Any) -> Stream | None:
    return (output, None) if isinstance(output, torch.Tensor) else None


def _of_transformers(output: Any) -> Stream | None:
    """By transformers' own definition, a layer's hidden state is its output, or the first element of it."""
    return _first(output) if isinstance(output, tuple) else _single(output)


def _without_batch(read: Callable[[Any], Stream | None], output: Any) -> Stream | None:
    """Views without the batch of one with which vLLM's Transformers backend runs its models."""
    stream = read(output)
    if stream is None:
        return None
    residual, hidden = stream
    return rows_of(residual), None if hidden is None else rows_of(hidden)


def rows_of(tensor: torch.Tensor) -> torch.Tensor:
    """A row for each token: a view without a batch of one."""
    return tensor.squeeze(0) if tensor.ndim == 3 and tensor.shape[0] == 1 else tensor


_READERS: dict[Rule, Callable[[Any], Stream | None]] = {"pair": _pair, "first": _first, "single": _single}


def _after_layer(
    index: int,
    name: "LayerName",
    read: Callable[[Any], Stream | None],
    layer: nn.Module,
    _: object,
    output: Any,
) -> None:
    stream = read(output)
    if stream is None:
        _refuse(type(layer).__name__, type(output).__name__)
    else:
        residual, hidden = stream
        intervene(residual, hidden, index, name)


@torch.compiler.assume_constant_result  # called while Dynamo traces, which would put its own words around an error
def _refuse(layer: str, kind: str) -> None:
    raise UnsupportedModelError(
        f"{layer} returns a {kind} of another form than its rule says: the rules are 'pair' (hidden_states, residual), 'first' "
        "(a tuple that begins with the stream) and 'single' (one tensor)"
    )


def _unknown(kind: type[nn.Module], name: str) -> str:
    """The sentence that refuses a class which is in no table: where it is, what its source returns, and how to add it."""
    owner = _owner(kind)
    try:
        source, line = inspect.getsourcelines(owner.forward)
        place = f" ({inspect.getsourcefile(owner)}:{line}, which returns {_returns(''.join(source))})"
    except (OSError, TypeError):  # a class without a file
        place = ""
    return (
        f"what {name} returns{place} is not known: add it to RULES_OF in trait_service/engine/layer_rules.py, or start with "
        f"{layer_rules.OPTION} '{name}=pair' (or =first, =single), and run `trait-service verify` with the same option"
    )


def _returns(source: str) -> str:
    """List what a function returns, each form once."""
    tree = ast.parse(textwrap.dedent(source))
    found = [ast.unparse(node.value) for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value]
    return " or ".join(dict.fromkeys(found)) or "nothing"


def _owner(kind: type[nn.Module]) -> type[nn.Module]:
    owner = next(base for base in kind.__mro__ if "forward" in vars(base))
    return kind if owner is nn.Module else owner
