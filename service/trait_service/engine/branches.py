"""The branches of a decoder layer, attention and MLP: the module whose output each adds to the stream, and the operation there.

A module is found by its role, that is by its name in the layer. Where the layer norms a branch before it adds it, the norm is
the module. A layer that adds something else than its module's output is refused. What no name shows is measured when the
service starts (`trait_service.reading.branch_check`).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from trait_core.schema import HookPoint

from trait_service.engine.errors import UnsupportedModelError
from trait_service.engine.layers import TRANSFORMERS_MODELS, class_name, rows_of
from trait_service.engine.operation import intervene

if TYPE_CHECKING:
    from vllm.utils.torch_utils import LayerName

    from trait_service.engine.state import SteeringState

ROLES: Mapping[HookPoint, tuple[str, ...]] = {
    "attn_out": (
        "self_attn",
        "self_attention",
        "attention",
        "attn",
        "linear_attn",
        "temporal_block",
        "mamba",
        "short_conv",
    ),
    "mlp_out": ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "shared_mlp"),
}
"""Names that layers give the module of a branch. What mixes tokens in place of attention, as Mamba does, is in its role."""

MIXERS = ("mixer",)
"""Names of modules that are a mixer of tokens in one layer and an MLP in the next: their class says which."""

NORMS: Mapping[HookPoint, tuple[str, ...]] = {
    "attn_out": ("post_self_attn_layernorm", "post_attn_norm", "post_mixer_norm", "post_norm1"),
    "mlp_out": ("post_feedforward_layernorm", "post_mlp_layernorm", "post_mlp_norm", "post_norm2"),
}
"""Names of the norm between a branch's module and the addition."""

SHARED_NORM = "post_attention_layernorm"
"""The norm before the MLP in most layers; behind the attention in those that have one of `BESIDE_SHARED_NORM` as well."""

BESIDE_SHARED_NORM = ("pre_feedforward_layernorm", "pre_mlp_layernorm", "post_feedforward_layernorm")

REFUSED: Mapping[str, str] = {
    "gemma4.Gemma4DecoderLayer": "it multiplies the whole stream by a number behind its branches",
    "minicpm.MiniCPMDecoderLayer": "it multiplies the outputs of its modules before it adds them",
}
"""Layers whose branches cannot be steered, with the reason."""

MULTIPLIER = "residual_multiplier"
"""Attribute of layers that multiply the outputs of their modules before they add them."""

NORMS_BEFORE = "do_layer_norm_before"
"""Attribute of layers that is false where they norm the stream behind a branch, and not before it."""


def attach(layers: Mapping[int, nn.Module], state: "SteeringState", tensor_parallel_size: int) -> None:
    """Put the operation at the output of the branches that the engine's hook points name.

    Args:
        layers: The decoder layers on this worker.
        state: It acts, and checks the outputs in the first forward pass.
        tensor_parallel_size: Number of ranks that share a layer.

    Raises:
        UnsupportedModelError: A layer lacks the module, has several, or adds something else than its output.
    """
    if not state.shape.hook_points:
        return
    from vllm.utils.torch_utils import LayerName  # noqa: PLC0415 - heavy, for who only finds modules

    for at in state.shape.hook_points:
        for index, layer in layers.items():
            site = state.shape.sites.of(at, index)
            module = branch(layer, at, tensor_parallel_size)
            module.register_forward_hook(partial(_after_branch, site, LayerName(str(site)), at))
            state.unchecked[site] = type(module).__name__


def branch(layer: nn.Module, at: HookPoint, tensor_parallel_size: int = 1) -> nn.Module:
    """The module of a layer whose output is added to the stream at a hook point.

    Raises:
        UnsupportedModelError: The layer has none, or several, or adds something else than its output.
    """
    name = class_name(type(layer))
    if name in REFUSED:
        raise UnsupportedModelError(f"{name} has no {at}: {REFUSED[name]}")
    if getattr(layer, MULTIPLIER, 1.0) != 1.0:
        raise UnsupportedModelError(
            f"{name} has no {at}: it multiplies the outputs of its modules by {getattr(layer, MULTIPLIER)} before it adds them"
        )
    if not getattr(layer, NORMS_BEFORE, True):
        raise UnsupportedModelError(f"{name} has no {at}: it norms the whole stream behind each branch")
    found = dict(modules_of(layer, at))
    if len(found) != 1:
        has = ", ".join(each for each, _ in layer.named_children())
        what = (
            f"several modules of that role ({', '.join(found)})" if found else f"no module of that role (it has {has})"
        )
        raise UnsupportedModelError(f"{name} has no {at}: it has {what}. Start without that hook point")
    ((role, module),) = found.items()
    if tensor_parallel_size > 1 and (where := _unreduced(module)) is not None:
        raise UnsupportedModelError(
            f"{name} has no {at} with tensor parallelism: {role}{where} leaves the sum over the ranks to the layer. Start without "
            "that hook point"
        )
    return _norm_of(layer, at) or module


def modules_of(layer: nn.Module, at: HookPoint) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a layer that have the role of a hook point, with their names."""
    for name, module in layer.named_children():
        if name in ROLES[at] or (name in MIXERS and _is_mlp(module) == (at == "mlp_out")):
            yield name, module


def _is_mlp(module: nn.Module) -> bool:
    return any(word in type(module).__name__.lower() for word in ("mlp", "moe"))


def _norm_of(layer: nn.Module, at: HookPoint) -> nn.Module | None:
    names: Sequence[str] = NORMS[at]
    children = dict(layer.named_children())
    if at == "attn_out" and any(name in children for name in BESIDE_SHARED_NORM):
        names = (*names, SHARED_NORM)
    return next((children[name] for name in names if name in children), None)


def _unreduced(module: nn.Module) -> str | None:
    """The part of a branch that gives a rank its share of a sum; None if the branch's output is whole on every rank.

    Experts are summed over the ranks as one, those that every token passes among them.
    """
    experts: list[Any] = [each for each in module.modules() if hasattr(each, "moe_config")]
    if experts:
        return " (its experts)" if any(each.moe_config.skip_final_all_reduce for each in experts) else None
    for name, part in module.named_modules():
        if getattr(part, "reduce_results", True) is False:
            return f".{name}" if name else ""
    return None


def _after_branch(site: int, name: "LayerName", at: HookPoint, module: nn.Module, _: object, output: Any) -> None:
    added = _added(output, of_transformers=class_name(type(module)).startswith(TRANSFORMERS_MODELS))
    if added is None:
        _refuse(type(module).__name__, type(output).__name__, at)
    else:
        intervene(rows_of(added), None, site, name)


def _added(output: Any, *, of_transformers: bool) -> torch.Tensor | None:
    """The tensor that a branch's module returns; None for another form.

    Beside it a tuple may hold what the layer does not add: in transformers the attention's weights, for example. In vLLM a
    second tensor is a bias that the layer adds later.
    """
    if not isinstance(output, tuple):
        return output if isinstance(output, torch.Tensor) else None
    first, *rest = output
    if not isinstance(first, torch.Tensor):
        return None
    return first if of_transformers or not any(isinstance(each, torch.Tensor) for each in rest) else None


@torch.compiler.assume_constant_result  # called while Dynamo traces, which would put its own words around an error
def _refuse(module: str, kind: str, at: HookPoint) -> None:
    raise UnsupportedModelError(
        f"{module} returns a {kind} of another form than the one tensor that its layer adds: the model has no {at}. Start without "
        "that hook point"
    )
