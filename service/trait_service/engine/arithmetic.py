"""The arithmetic of every intervention, on its own, in plain torch.

    h += (a + b * <h, d>) * d                     with a unit direction d

| operation | a | b | source |
|---|---|---|---|
| `add` | coefficient | 0 | activation addition, arXiv:2308.10248 |
| `ablate` | 0 | -1 | directional ablation, arXiv:2406.11717 |
| `set` | value | -1 | the projection becomes the value |
| `scale` | 0 | factor - 1 | the projection times the factor |
| `floor` | limit | | adds max(limit - <h, d>, 0): the projection is kept at or above the limit |
| `ceiling` | limit | | adds min(limit - <h, d>, 0): activation capping |

`preserve_norm` rescales h afterwards to its norm before the change. Terms on one layer act in the order given. All
arithmetic is float32; the result is added to the stream in the stream's own dtype.
"""

from functools import lru_cache
from typing import NamedTuple, assert_never

import torch
from trait_core.schema import Operation

from trait_service.engine.spec import TermSpec

LINEAR, FLOOR, CEILING = 0, 1, 2
"""Forms of a term: the two lowest bits of its mode."""

FORM = 3
"""Mask of a mode's form."""

PRESERVE_NORM = 4
"""Bit of a mode: the norm is preserved. Further flags of a term are further bits, which everything but the arithmetic passes on."""


class Coefficients(NamedTuple):
    """A term's numbers in the request table: all that the arithmetic reads besides its direction and positions."""

    mode: int
    a: float
    b: float


def coefficients(term: TermSpec) -> Coefficients:
    """The table's numbers for a term."""
    return _coefficients(term.operation, term.value, term.preserve_norm)


@lru_cache(maxsize=4096)
def _coefficients(operation: Operation, value: float, preserve_norm: bool) -> Coefficients:
    flags = PRESERVE_NORM * preserve_norm
    match operation:
        case "add":
            return Coefficients(LINEAR | flags, value, 0.0)
        case "ablate":
            return Coefficients(LINEAR | flags, 0.0, -1.0)
        case "set":
            return Coefficients(LINEAR | flags, value, -1.0)
        case "scale":
            return Coefficients(LINEAR | flags, 0.0, value - 1.0)
        case "floor":
            return Coefficients(FLOOR | flags, value, 0.0)
        case "ceiling":
            return Coefficients(CEILING | flags, value, 0.0)
        case _:
            assert_never(operation)


def delta(
    stream: torch.Tensor,
    direction: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    mode: torch.Tensor,
) -> torch.Tensor:
    """The delta that one term adds to each token.

    Args:
        stream: `(n, d_model)` float32: the residual stream before the term.
        direction: `(n, d_model)` float32, unit length: each token's own direction.
        a: `(n,)` float32.
        b: `(n,)` float32.
        mode: `(n,)` integer: a form, and flags.

    Returns:
        `(n, d_model)` float32.
    """
    form, preserve_norm = mode & FORM, (mode & PRESERVE_NORM) != 0
    projection = (stream * direction).sum(-1)
    gap = a - projection
    amount = torch.where(
        form == LINEAR,
        a + b * projection,
        torch.where(form == FLOOR, gap.clamp(min=0.0), gap.clamp(max=0.0)),
    )
    added = amount.unsqueeze(-1) * direction
    if bool(preserve_norm.any()):
        changed = stream + added
        before = stream.norm(dim=-1, keepdim=True)
        after = changed.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        rescaled = changed * (before / after) - stream
        added = torch.where(preserve_norm.unsqueeze(-1), rescaled, added)
    return added
