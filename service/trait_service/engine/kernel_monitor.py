"""Monitoring as a Triton kernel, for CUDA.

`kernel_torch.monitor` is its reference. It is launched after the steering kernel, and reads what that has left. The work on a
layer is a grid: tiles of tokens with the same set of directions, times runs of that layer's directions. A program keeps its
tokens' streams in registers and takes one direction after another, of which the next one is on its way meanwhile. Programs
take items of the grid in turn, and leave at once where nobody monitors the layer.

A projection is one sum over the stream, in an order that depends neither on other tokens nor on the number of programs. A matrix
product for 16 tokens and 32 directions was measured first, on an H200: 164 us a layer for one token with one direction, since
a tile went through the columns in steps that waited for one another (experiments/gpu). This form has not run on a GPU yet.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from trait_service.engine.buffers import MonitorBuffers
from trait_service.engine.kernel_triton import MAX_REGISTERS
from trait_service.engine.monitor_table import HEADER_WORDS, TILE_TOKENS, TILE_WORDS

FEWEST_DIRECTIONS = 2
"""A run has at least so many directions: each program reads its tokens' streams first."""

WIDEST_TILE = 8192
"""Width of the widest stream of which registers hold a whole tile; of a wider one they hold a token."""

FEWEST_WARPS = 4
"""Warps of a program for the narrowest streams."""

_HEADER, _TILE = tl.constexpr(HEADER_WORDS), tl.constexpr(TILE_WORDS)

# torch.finfo(torch.float32).tiny. A smaller number would be a double to Triton, and so would all that comes of it.
_TINY = tl.constexpr(1.1754943508222875e-38)


@triton.jit
def _direction(bank, entry, columns, inside, d_model):
    """A direction, by its entry in the set: twice its bank row, plus 1 for the cosine."""
    return tl.load(bank + (entry >> 1).to(tl.int64) * d_model + columns, mask=inside, other=0.0)


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
    block: tl.constexpr,
    has_hidden: tl.constexpr,
    tile_tokens: tl.constexpr,
    at_once: tl.constexpr,
    fewest_directions: tl.constexpr,
):
    """Project tiles of tokens on runs of their directions."""
    n_tiles = tl.load(tiles)
    n_directions = tl.load(most + layer)
    if (n_tiles == 0) | (n_directions == 0):
        return
    # Few tiles: many programs share the directions of each. Many tiles: each stream is read once.
    runs = tl.minimum(tl.cdiv(n_directions, fewest_directions), tl.maximum(tl.num_programs(0) // n_tiles, 1))
    run = tl.cdiv(n_directions, runs)
    width = tl.load(tiles + 1)
    places = tiles + tl.load(tiles + 2)
    columns = tl.arange(0, block)
    inside = columns < d_model
    for item in range(tl.program_id(0), n_tiles * runs, tl.num_programs(0)):
        tile = tiles + _HEADER + (item // runs) * _TILE
        directions = sets + tl.load(tile).to(tl.int64) * set_width
        entries = directions + n_layers + 1
        first = tl.load(directions + layer) + (item % runs) * run
        end = tl.minimum(first + run, tl.load(directions + layer + 1))
        if first < end:
            for part in tl.static_range(0, tile_tokens, at_once):
                each = part + tl.arange(0, at_once)
                rows = tl.load(tile + 1) + each
                asks = each < tl.load(tile + 2)
                place = tl.load(places + rows, mask=asks, other=0).to(tl.int64)
                here = asks[:, None] & inside[None, :]
                stream = tl.load(residual + place[:, None] * residual_stride + columns[None, :], mask=here, other=0.0)
                stream = stream.to(tl.float32)
                if has_hidden:
                    stream += tl.load(
                        hidden + place[:, None] * hidden_stride + columns[None, :], mask=here, other=0.0
                    ).to(tl.float32)
                norm = tl.maximum(tl.sqrt(tl.sum(stream * stream, axis=1)), _TINY)
                into = values + rows.to(tl.int64) * width
                entry = tl.load(entries + first)
                read = _direction(bank, entry, columns, inside, d_model)
                coming = tl.load(entries + first + 1, mask=first + 1 < end, other=0)
                for at in range(first, end):
                    following = _direction(bank, coming, columns, inside & (at + 1 < end), d_model)
                    later = tl.load(entries + at + 2, mask=at + 2 < end, other=0)
                    product = tl.sum(stream * read[None, :], axis=1)
                    tl.store(into + at, tl.where((entry & 1) != 0, product / norm, product), mask=asks)
                    entry = coming
                    coming = later
                    read = following


def monitor(
    residual: torch.Tensor, hidden: torch.Tensor | None, buffers: MonitorBuffers, layer: int, n_programs: int
) -> None:
    """Project the monitored tokens of the step at the output of one layer.

    Args:
        residual: `(n_tokens_padded, d_model)`, columns contiguous: as the steering kernel has left it.
        hidden: As `residual`, or None: the other half of the stream.
        buffers: Inputs and results on the device.
        layer: 0-based decoder block.
        n_programs: Programs of `FEWEST_WARPS` that a launch may have: of more warps there are fewer.
    """
    other = residual if hidden is None else hidden
    warps = n_warps(residual.shape[1])
    monitor_kernel[(max(n_programs * FEWEST_WARPS // warps, 1),)](
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
        num_warps=warps,
        maxnreg=MAX_REGISTERS,
    )


def constants(n_layers: int, set_width: int, d_model: int, *, has_hidden: bool) -> dict[str, Any]:
    """Constants that the kernel is compiled for.

    Args:
        n_layers: Sites of the engine (`Sites`).
        set_width: Words of a set's row.
        d_model: Width of the stream.
        has_hidden: The stream comes in two halves.
    """
    block = triton.next_power_of_2(d_model)
    return {
        "n_layers": n_layers,
        "set_width": set_width,
        "d_model": d_model,
        "block": block,
        "has_hidden": has_hidden,
        "tile_tokens": TILE_TOKENS,
        "at_once": TILE_TOKENS if block <= WIDEST_TILE else 1,
        "fewest_directions": FEWEST_DIRECTIONS,
    }


def n_warps(d_model: int) -> int:
    """Warps of one program: 16 columns of the stream a thread, up to 16 warps."""
    return min(max(triton.next_power_of_2(d_model) // 512, FEWEST_WARPS), 16)
