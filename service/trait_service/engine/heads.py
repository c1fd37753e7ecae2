"""The attention heads of a layer: what each puts out, side by side, before the output projection mixes them.

There are as many as query heads, whatever keys and values they share. The operation knows rows as wide as the stream, so that
a layer has one site for as many heads as fit into such a row, and further ones for the rest. Each row is a copy with zeros behind its
heads, which the projection gets back. Heads are captured; nothing here steers them.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from trait_core.schema import HEAD_OUT

from trait_service.engine.branches import modules_of
from trait_service.engine.errors import UnsupportedModelError
from trait_service.engine.head_shape import HeadShape
from trait_service.engine.layers import class_name, rows_of
from trait_service.engine.operation import intervene

if TYPE_CHECKING:
    from vllm.utils.torch_utils import LayerName

    from trait_service.engine.state import SteeringState

PROJECTION = "o_proj"
"""Name of the output projection in the attention of Llama-like models."""


def shape_of(layers: Mapping[int, nn.Module], n_heads: int, d_model: int, tensor_parallel_size: int) -> HeadShape:
    """The heads of the layers on this worker.

    Args:
        layers: The decoder layers.
        n_heads: Query heads of a layer, by the model's configuration.
        d_model: Width of the stream.
        tensor_parallel_size: Number of ranks that share a layer.

    Raises:
        UnsupportedModelError: A layer has no such projection, the layers differ, or the ranks share the heads.
    """
    if tensor_parallel_size > 1:
        raise UnsupportedModelError(
            f"{HEAD_OUT} is not supported with tensor parallelism: each rank has heads of its own. Start without that hook point"
        )
    widths = {_width(projection(layer), layer) for layer in layers.values()}
    if len(widths) != 1 or (width := widths.pop()) % n_heads or width // n_heads > d_model:
        raise UnsupportedModelError(
            f"{class_name(type(next(iter(layers.values()))))} has no {HEAD_OUT}: its layers do not all have {n_heads} heads that are "
            f"as wide as each other and at most {d_model} wide. Start without that hook point"
        )
    return HeadShape(n_heads, width // n_heads, d_model)


def projection(layer: nn.Module) -> nn.Module:
    """The output projection of a layer's attention.

    Raises:
        UnsupportedModelError: It has none by that name, or several.
    """
    found = [
        part
        for _, module in modules_of(layer, "attn_out")
        for name, part in module.named_children()
        if name == PROJECTION
    ]
    if len(found) != 1:
        raise UnsupportedModelError(
            f"{class_name(type(layer))} has no {HEAD_OUT}: it does not have one module {PROJECTION} in its attention. Start without that "
            "hook point"
        )
    return found[0]


def _width(module: nn.Module, layer: nn.Module) -> int:
    for name in ("input_size", "in_features"):
        width = getattr(module, name, None)
        if isinstance(width, int):
            return width
    raise UnsupportedModelError(
        f"{class_name(type(layer))} has no {HEAD_OUT}: {type(module).__name__} does not say how wide its input is. Start without that "
        "hook point"
    )


def attach(layers: Mapping[int, nn.Module], state: "SteeringState") -> None:
    """Put the operation at the input of the output projections, if the engine has the heads.

    Args:
        layers: The decoder layers on this worker.
        state: It captures there, and checks in the first forward pass that each is called once.
    """
    if state.shape.heads is None:
        return
    from vllm.utils.torch_utils import LayerName  # noqa: PLC0415 - heavy, for who only finds modules

    for index, layer in layers.items():
        module = projection(layer)
        sites = [state.shape.sites.of_heads(index, row) for row in range(state.shape.heads.n_rows)]
        names = [(site, LayerName(str(site))) for site in sites]
        module.register_forward_pre_hook(partial(_before_projection, names, state.shape.heads))
        state.unchecked |= dict.fromkeys(sites, type(module).__name__)


def _before_projection(
    sites: list[tuple[int, "LayerName"]], shape: HeadShape, module: nn.Module, args: tuple[Any, ...]
) -> tuple[Any, ...]:
    if not args or not isinstance(args[0], torch.Tensor):
        _refuse(type(module).__name__)
    heads = rows_of(args[0])
    width, parts = shape.per_row * shape.head_dim, []
    for (site, name), part in zip(sites, heads.split(width, dim=-1), strict=True):
        row = nn.functional.pad(part, (0, shape.d_model - part.shape[-1]))
        row = row.clone() if row.shape[-1] == part.shape[-1] else row
        intervene(row, None, site, name)
        parts.append(row[..., : part.shape[-1]])
    # The rows go on to the projection: what nobody reads would be left out of a compiled graph.
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    return (whole.reshape(args[0].shape), *args[1:])


@torch.compiler.assume_constant_result  # called while Dynamo traces, which would put its own words around an error
def _refuse(module: str) -> None:
    raise UnsupportedModelError(
        f"{module} is not called with one tensor of heads: the model has no {HEAD_OUT}. Start without that hook point"
    )
