"""Steering and capture as one Triton kernel, for CUDA; `kernel_torch` is its reference.

It reads gates, steers, then captures, while a token's half of the stream stays in registers; `kernel_monitor` is launched after it. It is
launched over the step's padded tokens, so that CUDA graphs hold it, and works through the list of active tokens: each
program takes an equal run of them, and leaves at once if none is left for it or if its layer has nothing to do. All
addresses are of buffers that live as long as the engine.
"""

import torch
import triton
import triton.language as tl

from trait_service.engine.active_tokens import CAPTURE, DEFER, GATED
from trait_service.engine.arithmetic import FLOOR, FORM, LINEAR, PARALLEL, PRESERVE_NORM, REPLACE
from trait_service.engine.buffers import KernelBuffers
from trait_service.engine.capture_rows import NORM_WORDS
from trait_service.engine.gates import BIT_MASK, GATE_SHIFT, MAX_GATES, SELECTOR_SHIFT
from trait_service.engine.kernel_gates import gates_decided
from trait_service.engine.request_table import (
    CAPTURED_BIT,
    GATES_SHIFT,
    POOL_WORDS,
    STEP_SHIFT,
    TERM_WORDS,
    Layout,
)
from trait_service.engine.requests import MAX_POOL_INTERVALS

WIDEST_GATHER = 16384
"""Bytes of the widest stream for which the registers also hold the sum of several tokens."""

MAX_REGISTERS = 128
"""Registers of a thread: a program of 16 warps gets no more, and a smaller one shares its multiprocessor with another."""

_CAPTURE, _DEFER, _GATED = tl.constexpr(CAPTURE), tl.constexpr(DEFER), tl.constexpr(GATED)
_LINEAR, _FLOOR, _FORM = tl.constexpr(LINEAR), tl.constexpr(FLOOR), tl.constexpr(FORM)
_REPLACE, _PARALLEL = tl.constexpr(REPLACE), tl.constexpr(PARALLEL)
_PRESERVE_NORM = tl.constexpr(PRESERVE_NORM)
_POOL, _TERM = tl.constexpr(POOL_WORDS), tl.constexpr(TERM_WORDS)
_NORM = tl.constexpr(NORM_WORDS)
_CAPTURED, _GATES_SHIFT = tl.constexpr(CAPTURED_BIT), tl.constexpr(GATES_SHIFT)
_MAX_GATES = tl.constexpr(MAX_GATES)
_SLOTS = tl.constexpr((1 << 2 * MAX_GATES) - 1)
_GATE_SHIFT, _SELECTOR_SHIFT = tl.constexpr(GATE_SHIFT), tl.constexpr(SELECTOR_SHIFT)
_BIT_MASK = tl.constexpr(BIT_MASK)
_STEP_SHIFT = tl.constexpr(STEP_SHIFT)

# torch.finfo(torch.float32).tiny. A smaller number would be a double to Triton, and so would all that comes of it.
_TINY = tl.constexpr(1.1754943508222875e-38)


@triton.jit
def _stream(kept, hidden, columns, inside, has_hidden: tl.constexpr):
    """The stream: what the registers keep, and the other half, which lies in a cache after its first use."""
    stream = kept
    if has_hidden:
        stream += tl.load(hidden + columns, mask=inside, other=0.0).to(tl.float32)
    return stream


@triton.jit
def _delta(kept, hidden, direction, mode, a, b, columns, inside, has_hidden: tl.constexpr):
    """The delta that one term adds, as `arithmetic.delta`; a plain addition does not read the other half of the stream."""
    form = mode & _FORM
    if (form == _LINEAR) & (b == 0.0) & ((mode & _PRESERVE_NORM) == 0):
        added = a * direction
    else:
        stream = _stream(kept, hidden, columns, inside, has_hidden)
        projection = tl.sum(stream * direction)
        gap = a - projection
        bounded = tl.where(form == _FLOOR, tl.maximum(gap, 0.0), tl.minimum(gap, 0.0))
        along = tl.where(form == _LINEAR, a + b * projection, bounded)
        # Every change is a share of the stream, and so much along the direction: only two numbers differ.
        share = 0.0
        if form == _REPLACE:
            along = a
            share = -1.0
        elif form > _REPLACE:
            across = tl.sqrt(tl.sum((stream - projection * direction) * (stream - projection * direction)))
            squared = projection * projection + across * across
            turns = across > tl.sqrt(squared) * _PARALLEL
            slope = tl.where(turns, a / tl.maximum(across, _TINY), 0.0)
            along = slope * squared
            share = tl.where(turns, b - 1.0 - slope * projection, 0.0)
        added = share * stream + along * direction
        if (mode & _PRESERVE_NORM) != 0:
            after = stream + added
            ratio = tl.sqrt(tl.sum(stream * stream)) / tl.maximum(tl.sqrt(tl.sum(after * after)), _TINY)
            added = after * ratio - stream
    return added


@triton.jit
def _pools_at(request, position, n_pools: tl.constexpr):
    """The pools that hold a position: a bit each."""
    holding = 0
    for pool in range(n_pools):
        entry = request + pool * _POOL
        start = tl.load(entry + 1)
        inside = (position >= start) & (position < tl.load(entry + 2)) & ((position - start) % tl.load(entry + 3) == 0)
        holding |= ((tl.load(entry) >= 0) & inside).to(tl.int32) << pool
    return holding


@triton.jit
def _pool_sums(request, pool, pools, layer, n_layers, d_model, n_kinds: tl.constexpr):
    """Address of a pool's sums on a layer: what waits lies `n_layers` further."""
    row = tl.load(request + pool * _POOL).to(tl.int64)
    return pools + (row * n_kinds * n_layers + layer) * (d_model + _NORM)


@triton.jit
def _add(
    request,
    holding,
    total,
    norm,
    pools,
    columns,
    inside,
    layer,
    n_layers,
    d_model,
    n_kinds: tl.constexpr,
    n_pools: tl.constexpr,
):
    """Add to each pool of a set. Programs add in any order, so that sums are not equal to the last bit from run to run."""
    for pool in range(n_pools):
        if ((holding >> pool) & 1) != 0:
            sums = _pool_sums(request, pool, pools, layer, n_layers, d_model, n_kinds)
            tl.atomic_add(sums + columns, total, mask=inside, sem="relaxed")
            tl.atomic_add(sums + d_model, norm, sem="relaxed")


@triton.jit
def _defer(
    request,
    holding,
    stream,
    norm,
    pools,
    columns,
    inside,
    layer,
    n_layers,
    d_model,
    n_kinds: tl.constexpr,
    n_pools: tl.constexpr,
):
    """Let a stream wait in each pool of a set, and add the one that waited there. One token a step waits in a pool."""
    for pool in range(n_pools):
        if ((holding >> pool) & 1) != 0:
            sums = _pool_sums(request, pool, pools, layer, n_layers, d_model, n_kinds)
            last = sums + n_layers * (d_model + _NORM)
            waited = tl.load(last + columns, mask=inside, other=0.0)
            waited_norm = tl.load(last + d_model)
            tl.atomic_add(sums + columns, waited, mask=inside, sem="relaxed")
            tl.atomic_add(sums + d_model, waited_norm, sem="relaxed")
            tl.debug_barrier()  # every thread has read before one writes
            tl.store(last + columns, stream, mask=inside)
            tl.store(last + d_model, norm)


@triton.jit(do_not_specialize=["layer"])
def intervene_kernel(
    residual,
    hidden,
    active,
    flags,
    table,
    bank,
    pools,
    open_gates,
    held,
    layer,
    residual_stride,
    hidden_stride,
    n_layers: tl.constexpr,
    n_kinds: tl.constexpr,
    n_pools: tl.constexpr,
    at_gates: tl.constexpr,
    at_layers: tl.constexpr,
    at_terms: tl.constexpr,
    width: tl.constexpr,
    has_hidden: tl.constexpr,
    gathers: tl.constexpr,
    d_model: tl.constexpr,
    block: tl.constexpr,
):
    """One program for each run of active tokens."""
    used = tl.load(flags + layer * 4)
    captured = tl.load(flags + layer * 4 + 1)
    gated = tl.load(flags + layer * 4 + 2)
    n_active = tl.load(active)
    per_program = tl.cdiv(n_active, tl.num_programs(0))
    first = tl.program_id(0) * per_program
    if (used + captured + gated == 0) | (first >= n_active):
        return
    columns = tl.arange(0, block)
    inside = columns < d_model
    # Tokens that follow one another in the same pools are summed here: a long prompt costs one atomic addition a program.
    summed = 0
    summed_row = 0
    total = tl.zeros([block if gathers else 1], dtype=tl.float32)
    total_norm = 0.0
    for i in range(first, tl.minimum(first + per_program, n_active)):
        entry = active + 4 + i * 4
        token = tl.load(entry).to(tl.int64)
        row = tl.load(entry + 1)
        position = tl.load(entry + 2)
        bits = tl.load(entry + 3)
        request = table + row.to(tl.int64) * width
        here = residual + token * residual_stride
        other = hidden + token * hidden_stride
        kept = tl.load(here + columns, mask=inside, other=0.0).to(tl.float32)

        reads = tl.load(request + at_layers + layer)
        # One number in the place of three, since registers are few while terms act.
        pooled = tl.where((captured != 0) & ((bits & _CAPTURE) != 0) & ((reads & _CAPTURED) != 0), bits, 0)
        word = 0
        if (bits & _GATED) != 0:
            word = tl.load(open_gates + token)
            own = held + row.to(tl.int64) * _MAX_GATES
            slots = (reads >> _GATES_SHIFT) & _SLOTS
            if slots != 0:
                stream = _stream(kept, other, columns, inside, has_hidden)
                word = gates_decided(
                    request + at_gates, slots, word, position, stream, bank, own, columns, inside, d_model
                )
                tl.store(open_gates + token, word)
        # Bit 0 is that of a term without a gate or a selector: always set.
        word = (word << 1) | 1

        changed = 0
        for k in range(used):
            term = request + at_terms + (k * n_layers + layer) * _TERM
            bank_row = tl.load(term)
            how = tl.load(term + 1)
            start = tl.load(term + 2)
            on_step = (position - start) % (how >> _STEP_SHIFT) == 0
            both = (word >> ((how >> _GATE_SHIFT) & _BIT_MASK)) & (word >> ((how >> _SELECTOR_SHIFT) & _BIT_MASK))
            is_open = (both & 1) != 0
            if (bank_row >= 0) & (position >= start) & (position < tl.load(term + 3)) & on_step & is_open:
                direction = tl.load(bank + bank_row.to(tl.int64) * d_model + columns, mask=inside, other=0.0)
                a = tl.load(term + 4).to(tl.float32, bitcast=True)
                b = tl.load(term + 5).to(tl.float32, bitcast=True)
                added = _delta(kept, other, direction, how, a, b, columns, inside, has_hidden)
                # Rounded to the stream's dtype after each term, as the reference does.
                kept = (kept + added).to(residual.dtype.element_ty).to(tl.float32)
                changed = 1
        if changed == 1:
            tl.store(here + columns, kept.to(residual.dtype.element_ty), mask=inside)

        holding = 0
        if pooled != 0:
            holding = _pools_at(request, position, n_pools)
        if holding != 0:
            stream = _stream(kept, other, columns, inside, has_hidden)
            norm = tl.sqrt(tl.sum(stream * stream))
            if n_kinds == 2 and (pooled & _DEFER) != 0:
                _defer(
                    request, holding, stream, norm, pools, columns, inside, layer, n_layers, d_model, n_kinds, n_pools
                )
            elif not gathers:
                _add(request, holding, stream, norm, pools, columns, inside, layer, n_layers, d_model, n_kinds, n_pools)
            else:
                if (holding != summed) | (row != summed_row):
                    before = table + tl.cast(summed_row, tl.int64) * width
                    _add(
                        before,
                        summed,
                        total,
                        total_norm,
                        pools,
                        columns,
                        inside,
                        layer,
                        n_layers,
                        d_model,
                        n_kinds,
                        n_pools,
                    )
                    summed = holding
                    summed_row = row
                    total = tl.zeros([block], dtype=tl.float32)
                    total_norm = 0.0
                total += stream
                total_norm += norm
    if gathers:
        before = table + tl.cast(summed_row, tl.int64) * width
        _add(before, summed, total, total_norm, pools, columns, inside, layer, n_layers, d_model, n_kinds, n_pools)


def intervene(
    residual: torch.Tensor,
    hidden: torch.Tensor | None,
    buffers: KernelBuffers,
    layout: Layout,
    layer: int,
    n_programs: int,
) -> None:
    """Steer, then capture, the active tokens of the step at the output of one layer.

    Args:
        residual: `(n_tokens_padded, d_model)`, columns contiguous; changed in place.
        hidden: As `residual`, or None: the other half of the stream.
        buffers: Inputs and results on the device.
        layout: Layout of the table's rows.
        layer: 0-based decoder block.
        n_programs: Most programs of one launch.
    """
    other = residual if hidden is None else hidden
    n_tokens, d_model = residual.shape
    intervene_kernel[(min(n_tokens, n_programs),)](
        residual,
        other,
        buffers.active,
        buffers.flags,
        buffers.table,
        buffers.bank,
        buffers.pools,
        buffers.open_gates,
        buffers.held,
        layer,
        residual.stride(0),
        other.stride(0),
        **constants(
            layout, d_model, residual.element_size(), n_kinds=buffers.pools.shape[1], has_hidden=hidden is not None
        ),
        num_warps=n_warps(d_model, residual.element_size()),
        maxnreg=MAX_REGISTERS,
    )


def constants(
    layout: Layout, d_model: int, element_size: int, *, n_kinds: int, has_hidden: bool
) -> dict[str, int | bool]:
    """Constants that the kernel is compiled for.

    Args:
        layout: Layout of the table's rows.
        d_model: Width of the stream.
        element_size: Bytes of its numbers.
        n_kinds: `CaptureRows.store`'s: 2 if a position waits.
        has_hidden: The stream comes in two halves.
    """
    block = triton.next_power_of_2(d_model)
    return {
        "n_layers": layout.n_layers,
        "n_kinds": n_kinds,
        "n_pools": MAX_POOL_INTERVALS,
        "at_gates": layout.gates,
        "at_layers": layout.layers,
        "at_terms": layout.terms,
        "width": layout.width(layout.n_terms),
        "has_hidden": has_hidden,
        "gathers": block * element_size <= WIDEST_GATHER,
        "d_model": d_model,
        "block": block,
    }


def n_warps(d_model: int, element_size: int) -> int:
    """Warps of one program: 32 bytes of the stream a thread, up to 16 warps."""
    return min(max(triton.next_power_of_2(d_model) * element_size // 1024, 4), 16)
