"""The operation as Triton kernels, for CUDA. Not yet run on a GPU; `kernel_torch` is its reference.

All three are always launched, so that CUDA graphs hold them; a program leaves at once when its layer or its token
has nothing to do. All addresses are of buffers that live as long as the engine.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from trait_service.engine.arithmetic import FLOOR, FORM, LINEAR, PRESERVE_NORM
from trait_service.engine.request_table import LayerTable

_LINEAR = tl.constexpr(LINEAR)
_FLOOR = tl.constexpr(FLOOR)
_FORM = tl.constexpr(FORM)
_PRESERVE_NORM = tl.constexpr(PRESERVE_NORM)


@triton.jit
def _steer_kernel(
    residual,
    hidden,
    bank,
    vector,
    numbers,
    rules,
    row_of,
    position_of,
    flags,
    layer,
    n_layers,
    residual_stride,
    hidden_stride,
    d_model: tl.constexpr,
    n_terms: tl.constexpr,
    has_hidden: tl.constexpr,
    block: tl.constexpr,
):
    """One program a token: the token's terms in order, the stream kept in registers."""
    used = tl.load(flags)
    if used == 0:
        return
    token = tl.program_id(0).to(tl.int64)
    row = tl.load(row_of + token)
    if row < 0:
        return
    position = tl.load(position_of + token)
    columns = tl.arange(0, block)
    inside = columns < d_model
    kept = tl.load(residual + token * residual_stride + columns, mask=inside, other=0.0).to(tl.float32)
    other = tl.zeros([block], dtype=tl.float32)
    if has_hidden:
        other = tl.load(hidden + token * hidden_stride + columns, mask=inside, other=0.0).to(tl.float32)
    changed = 0
    for k in range(n_terms):
        entry = (row.to(tl.int64) * n_layers + layer) * n_terms + k
        bank_row = tl.load(vector + entry)
        start = tl.load(rules + entry * 3 + 1)
        stop = tl.load(rules + entry * 3 + 2)
        if (bank_row >= 0) & (position >= start) & (position < stop):
            mode = tl.load(rules + entry * 3)
            form = mode & _FORM
            a = tl.load(numbers + entry * 2)
            b = tl.load(numbers + entry * 2 + 1)
            direction = tl.load(bank + bank_row.to(tl.int64) * d_model + columns, mask=inside, other=0.0)
            stream = kept + other
            projection = tl.sum(stream * direction)
            gap = a - projection
            amount = tl.where(
                form == _LINEAR,
                a + b * projection,
                tl.where(form == _FLOOR, tl.maximum(gap, 0.0), tl.minimum(gap, 0.0)),
            )
            added = amount * direction
            if (mode & _PRESERVE_NORM) != 0:
                after = stream + added
                ratio = tl.sqrt(tl.sum(stream * stream)) / tl.maximum(
                    tl.sqrt(tl.sum(after * after)), 1.1754943508222875e-38
                )
                added = after * ratio - stream
            # Rounded to the stream's dtype after each term, as the reference does.
            kept = (kept + added).to(residual.dtype.element_ty).to(tl.float32)
            changed = 1
    if changed == 1:
        tl.store(residual + token * residual_stride + columns, kept.to(residual.dtype.element_ty), mask=inside)


@triton.jit
def _capture_kernel(
    residual,
    hidden,
    pool_slot,
    sums,
    norms,
    flags,
    sums_stride,
    norms_stride,
    residual_stride,
    hidden_stride,
    d_model: tl.constexpr,
    n_pools: tl.constexpr,
    has_hidden: tl.constexpr,
    block: tl.constexpr,
):
    """One program a token: add its stream to each of its pools. Sums are atomic: their order is not fixed."""
    if tl.load(flags + 1) == 0:
        return
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < d_model
    for pool in range(n_pools):
        slot = tl.load(pool_slot + token * n_pools + pool).to(tl.int64)
        if slot >= 0:
            stream = tl.load(residual + token * residual_stride + columns, mask=inside, other=0.0).to(tl.float32)
            if has_hidden:
                stream += tl.load(hidden + token * hidden_stride + columns, mask=inside, other=0.0).to(tl.float32)
            tl.atomic_add(sums + slot * sums_stride + columns, stream, mask=inside)
            tl.atomic_add(norms + slot * norms_stride, tl.sqrt(tl.sum(stream * stream)))


@triton.jit
def _monitor_kernel(
    residual,
    hidden,
    bank,
    monitored,
    row_of,
    values,
    flags,
    layer,
    n_layers,
    residual_stride,
    hidden_stride,
    d_model: tl.constexpr,
    n_columns: tl.constexpr,
    has_hidden: tl.constexpr,
    block: tl.constexpr,
):
    """One program a token: its projection on each of its request's monitored directions of this layer."""
    if tl.load(flags + 2) == 0:
        return
    token = tl.program_id(0).to(tl.int64)
    row = tl.load(row_of + token)
    if row < 0:
        return
    columns = tl.arange(0, block)
    inside = columns < d_model
    stream = tl.load(residual + token * residual_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if has_hidden:
        stream += tl.load(hidden + token * hidden_stride + columns, mask=inside, other=0.0).to(tl.float32)
    norm = tl.maximum(tl.sqrt(tl.sum(stream * stream)), 1.1754943508222875e-38)
    for column in range(n_columns):
        entry = ((row.to(tl.int64) * n_layers + layer) * n_columns + column) * 2
        bank_row = tl.load(monitored + entry)
        if bank_row >= 0:
            direction = tl.load(bank + bank_row.to(tl.int64) * d_model + columns, mask=inside, other=0.0)
            projection = tl.sum(stream * direction)
            cosine = tl.load(monitored + entry + 1)
            tl.store(values + token * n_columns + column, tl.where(cosine != 0, projection / norm, projection))


def steer(
    residual: torch.Tensor,
    hidden: torch.Tensor | None,
    bank: torch.Tensor,
    table: LayerTable,
    row: torch.Tensor,
    position: torch.Tensor,
    flags: torch.Tensor,
) -> None:
    """As `kernel_torch.steer`, over every token of the step.

    Args:
        residual: `(n_tokens_padded, d_model)`, columns contiguous; changed in place.
        hidden: As `residual`, or None.
        bank: `(n_bank_rows, d_model)` float32.
        table: The request table, on one layer.
        row: `(max_tokens,)` int32: each token's row of the table, -1 for none.
        position: `(max_tokens,)` int32: each token's absolute position.
        flags: `(3,)` int32 of the layer: terms used, whether it is captured, whether it is monitored.
    """
    other, options = _launch_options(residual, hidden)
    _steer_kernel[(min(residual.shape[0], row.shape[0]),)](
        residual,
        other,
        bank,
        table.vector,
        table.numbers,
        table.rules,
        row,
        position,
        flags,
        table.layer,
        table.vector.shape[1],
        residual.stride(0),
        other.stride(0),
        n_terms=table.vector.shape[2],
        **options,
    )


def capture(
    residual: torch.Tensor,
    hidden: torch.Tensor | None,
    pool_slot: torch.Tensor,
    sums: torch.Tensor,
    norms: torch.Tensor,
    flags: torch.Tensor,
) -> None:
    """As `kernel_torch.capture`, over every token of the step.

    Args:
        residual: `(n_tokens_padded, d_model)`, columns contiguous.
        hidden: As `residual`, or None.
        pool_slot: `(max_tokens, n_pools)` int32: each token's pools, -1 for none.
        sums: `(n_rows, d_model)` float32, changed in place.
        norms: `(n_rows,)` float32, changed in place.
        flags: `(3,)` int32 of the layer: terms used, whether it is captured, whether it is monitored.
    """
    other, options = _launch_options(residual, hidden)
    _capture_kernel[(min(residual.shape[0], pool_slot.shape[0]),)](
        residual,
        other,
        pool_slot,
        sums,
        norms,
        flags,
        sums.stride(0),
        norms.stride(0),
        residual.stride(0),
        other.stride(0),
        n_pools=pool_slot.shape[1],
        **options,
    )


def monitor(
    residual: torch.Tensor,
    hidden: torch.Tensor | None,
    bank: torch.Tensor,
    table: LayerTable,
    row: torch.Tensor,
    values: torch.Tensor,
    flags: torch.Tensor,
) -> None:
    """As `kernel_torch.monitor`, over every token of the step.

    Args:
        residual: `(n_tokens_padded, d_model)`, columns contiguous.
        hidden: As `residual`, or None.
        bank: `(n_bank_rows, d_model)` float32.
        table: The request table, on one layer.
        row: `(max_tokens,)` int32: each token's row of the table, -1 for none.
        values: `(max_tokens, n_columns)` float32, changed in place.
        flags: `(3,)` int32 of the layer: terms used, whether it is captured, whether it is monitored.
    """
    other, options = _launch_options(residual, hidden)
    _monitor_kernel[(min(residual.shape[0], row.shape[0]),)](
        residual,
        other,
        bank,
        table.monitored,
        row,
        values,
        flags,
        table.layer,
        table.monitored.shape[1],
        residual.stride(0),
        other.stride(0),
        n_columns=table.monitored.shape[2],
        **options,
    )


def _launch_options(residual: torch.Tensor, hidden: torch.Tensor | None) -> tuple[torch.Tensor, dict[str, Any]]:
    d_model = residual.shape[-1]
    block = triton.next_power_of_2(d_model)
    other = residual if hidden is None else hidden
    return other, {
        "d_model": d_model,
        "has_hidden": hidden is not None,
        "block": block,
        "num_warps": 4 if block <= 2048 else 8,
    }
