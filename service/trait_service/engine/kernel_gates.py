"""Gates in the Triton kernel (`gates`): a token's word, from the projections of its stream and from what its row holds."""

import triton
import triton.language as tl

from trait_service.engine.gates import LATCH, LATCHED, MAX_GATES, SUM_LIMIT, SUM_SCALE
from trait_service.engine.request_table import GATE_WORDS

_GATE, _MAX_GATES = tl.constexpr(GATE_WORDS), tl.constexpr(MAX_GATES)
_LATCH, _LATCHED = tl.constexpr(LATCH), tl.constexpr(LATCHED)
_SUM_SCALE, _SUM_LIMIT = tl.constexpr(float(SUM_SCALE)), tl.constexpr(SUM_LIMIT)


@triton.jit
def _is_past(gate, projection):
    """1 if a projection is past a gate's bound. NaN is past none."""
    bound = tl.load(gate + 2).to(tl.float32, bitcast=True)
    return tl.where((tl.load(gate + 1) & 1) != 0, projection < bound, projection > bound).to(tl.int32)


@triton.jit
def gates_decided(gates, slots, word, position, stream, bank, held, columns, inside, d_model):
    """A token's word after some of its request's gates are read or settled (`gates`): a bit for each slot.

    Both are in one loop, since two take more registers than there are on sm_80.
    """
    for each in range(2 * _MAX_GATES):
        if ((slots >> each) & 1) != 0:
            slot = tl.where(each < _MAX_GATES, each, each - _MAX_GATES)
            gate = gates + slot * _GATE
            hold = tl.load(gate + 1) >> 1
            opens = 0
            if each < _MAX_GATES:
                direction = tl.load(bank + tl.load(gate).to(tl.int64) * d_model + columns, mask=inside, other=0.0)
                projection = tl.sum(stream * direction)
                opens = _is_past(gate, projection)
                if hold == _LATCH:
                    if opens != 0:
                        tl.atomic_max(held + slot, (-position + _LATCHED).to(tl.int64), sem="relaxed")
                elif (hold > _LATCH) & (position < tl.load(gate + 3)):
                    finite = tl.where(projection == projection, projection, 0.0)  # noqa: PLR0124 - NaN is not
                    part = tl.minimum(tl.maximum(finite, -_SUM_LIMIT), _SUM_LIMIT) * _SUM_SCALE
                    tl.atomic_add(held + slot, part.to(tl.int64), sem="relaxed")
            else:
                number = tl.load(held + slot)
                opens = (position + number >= _LATCHED).to(tl.int32)
                if hold > _LATCH:
                    n_prompt = tl.load(gate + 3)
                    mean = number.to(tl.float32) / _SUM_SCALE / n_prompt.to(tl.float32)
                    opens = _is_past(gate, mean) & (position >= n_prompt - 1).to(tl.int32)
            word = (word & ~(1 << slot)) | (opens << slot)
    return word
