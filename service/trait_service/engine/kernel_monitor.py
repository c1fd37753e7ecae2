"""Monitoring as a Triton kernel, for CUDA: on each layer one matrix product for the tokens that ask. Not yet run on a GPU.

`kernel_torch.monitor` is its reference. It is launched after the steering kernel, which works on one token at a time in
registers: a product needs the changed streams of many. The work on a layer is a grid of tiles: some tokens with the same set of
directions, times some directions of that set. Programs take them in turn, and leave at once where nobody monitors the layer.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from trait_service.engine.buffers import MonitorBuffers
from trait_service.engine.monitor_table import HEADER_WORDS, TILE_TOKENS, TILE_WORDS

TILE_DIRECTIONS = 32
"""Directions of one tile."""

STEP_COLUMNS = 64
"""Columns of the stream that are multiplied at once."""

N_WARPS = 4

_HEADER, _TILE = tl.constexpr(HEADER_WORDS), tl.constexpr(TILE_WORDS)

# torch.finfo(torch.float32).tiny. A smaller number would be a double to Triton, and so would all that comes of it.
_TINY = tl.constexpr(1.1754943508222875e-38)


@triton.jit(do_not_specialize=["layer"])
def monitor_kernel(
    residual,
    hidden,
    tiles,
    sets,
    most,
    bank,
    values,
    layer,
    residual_stride,
    hidden_stride,
    n_layers: tl.constexpr,
    set_width: tl.constexpr,
    d_model: tl.constexpr,
    has_hidden: tl.constexpr,
    tile_tokens: tl.constexpr,
    tile_directions: tl.constexpr,
    step_columns: tl.constexpr,
):
    """Project tiles of tokens on tiles of their directions."""
    n_across = tl.cdiv(tl.load(most + layer), tile_directions)
    width = tl.load(tiles + 1)
    places = tiles + tl.load(tiles + 2)
    for item in range(tl.program_id(0), tl.load(tiles) * n_across, tl.num_programs(0)):
        tile = tiles + _HEADER + (item // n_across) * _TILE
        directions = sets + tl.load(tile).to(tl.int64) * set_width
        begin = tl.load(directions + layer)
        end = tl.load(directions + layer + 1)
        first = begin + (item % n_across) * tile_directions
        if first < end:
            row = tl.load(tile + 1)
            rows = row + tl.arange(0, tile_tokens)
            asks = tl.arange(0, tile_tokens) < tl.load(tile + 2)
            at = first + tl.arange(0, tile_directions)
            here = at < end
            place = tl.load(places + rows, mask=asks, other=0).to(tl.int64)
            entry = tl.load(directions + n_layers + 1 + at, mask=here, other=0)
            bank_row = (entry >> 1).to(tl.int64)
            product = tl.zeros([tile_tokens, tile_directions], dtype=tl.float32)
            square = tl.zeros([tile_tokens], dtype=tl.float32)
            for start in range(0, d_model, step_columns):
                columns = start + tl.arange(0, step_columns)
                inside = columns < d_model
                from_stream = asks[:, None] & inside[None, :]
                from_bank = here[:, None] & inside[None, :]
                stream = tl.load(
                    residual + place[:, None] * residual_stride + columns[None, :], mask=from_stream, other=0.0
                ).to(tl.float32)
                if has_hidden:
                    stream += tl.load(
                        hidden + place[:, None] * hidden_stride + columns[None, :], mask=from_stream, other=0.0
                    ).to(tl.float32)
                read = tl.load(bank + bank_row[:, None] * d_model + columns[None, :], mask=from_bank, other=0.0)
                product = tl.dot(stream, tl.trans(read), product, input_precision="ieee")
                square += tl.sum(stream * stream, axis=1)
            norm = tl.maximum(tl.sqrt(square), _TINY)
            projection = tl.where((entry & 1)[None, :] != 0, product / norm[:, None], product)
            into = values + rows[:, None].to(tl.int64) * width + at[None, :]
            tl.store(into, projection, mask=asks[:, None] & here[None, :])


def monitor(
    residual: torch.Tensor, hidden: torch.Tensor | None, buffers: MonitorBuffers, layer: int, n_programs: int
) -> None:
    """Project the monitored tokens of the step at the output of one layer.

    Args:
        residual: `(n_tokens_padded, d_model)`, columns contiguous: as the steering kernel has left it.
        hidden: As `residual`, or None: the other half of the stream.
        buffers: Inputs and results on the device.
        layer: 0-based decoder block.
        n_programs: Programs of one launch.
    """
    other = residual if hidden is None else hidden
    monitor_kernel[(n_programs,)](
        residual,
        other,
        buffers.tiles,
        buffers.sets,
        buffers.most,
        buffers.bank,
        buffers.values,
        layer,
        residual.stride(0),
        other.stride(0),
        **constants(len(buffers.most), buffers.sets.shape[1], residual.shape[1], has_hidden=hidden is not None),
        num_warps=N_WARPS,
    )


def constants(n_layers: int, set_width: int, d_model: int, *, has_hidden: bool) -> dict[str, Any]:
    """Constants that the kernel is compiled for.

    Args:
        n_layers: Sites of the engine (`Sites`).
        set_width: Words of a set's row.
        d_model: Width of the stream.
        has_hidden: The stream comes in two halves.
    """
    return {
        "n_layers": n_layers,
        "set_width": set_width,
        "d_model": d_model,
        "has_hidden": has_hidden,
        "tile_tokens": TILE_TOKENS,
        "tile_directions": TILE_DIRECTIONS,
        "step_columns": STEP_COLUMNS,
    }
