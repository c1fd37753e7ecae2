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

Two operations change the whole stream:

| `replace` | length | | h becomes a d: activation patching, arXiv:2202.05262, where d and a are another run's stream |
| `rotate` | sine | cosine | h becomes b h + a n u, with n the norm of h: angular steering (arXiv:2510.26243 turns in a fixed plane) |

Here u is the unit vector of d - <h, d> h / n^2, the part of d that is orthogonal to h. A stream that is parallel to d up to
`PARALLEL` has no such part, and stays as it is.

`preserve_norm` rescales h afterwards to its norm before the change. Terms on one layer act in the order given. All
arithmetic is float32; the result is added to the stream in the stream's own dtype.
"""

import math
from functools import lru_cache
from typing import NamedTuple, assert_never

import torch
from trait_core.schema import Operation

from trait_service.engine.spec import TermSpec

LINEAR, FLOOR, CEILING, REPLACE, ROTATE = range(5)
"""Forms of a term: the three lowest bits of its mode."""

FORM = 7
"""Mask of a mode's form."""

PARALLEL = 1e-5
"""Sine of the angle between stream and direction below which they count as parallel; float32 gives no better."""

PRESERVE_NORM = 8
"""Bit of a mode: the norm is preserved. Higher bits hold a term's gate (`gates`)."""

ARITHMETIC = FORM | PRESERVE_NORM
"""Mask of the bits of a mode that the arithmetic reads."""


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
    form, a, b = _form(operation, value)
    return Coefficients(form | PRESERVE_NORM * preserve_norm, a, b)


def _form(operation: Operation, value: float) -> tuple[int, float, float]:
    match operation:
        case "add":
            found = (LINEAR, value, 0.0)
        case "ablate":
            found = (LINEAR, 0.0, -1.0)
        case "set":
            found = (LINEAR, value, -1.0)
        case "scale":
            found = (LINEAR, 0.0, value - 1.0)
        case "floor":
            found = (FLOOR, value, 0.0)
        case "ceiling":
            found = (CEILING, value, 0.0)
        case "replace":
            found = (REPLACE, value, 0.0)
        case "rotate":
            found = (ROTATE, math.sin(math.radians(value)), math.cos(math.radians(value)))
        case _:
            assert_never(operation)
    return found


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
    if bool((form >= REPLACE).any()):
        replaced = a.unsqueeze(-1) * direction - stream
        rotated = _rotation(stream, direction, projection, a, b)
        added = torch.where((form == REPLACE).unsqueeze(-1), replaced, added)
        added = torch.where((form == ROTATE).unsqueeze(-1), rotated, added)
    if bool(preserve_norm.any()):
        changed = stream + added
        before = stream.norm(dim=-1, keepdim=True)
        after = changed.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        rescaled = changed * (before / after) - stream
        added = torch.where(preserve_norm.unsqueeze(-1), rescaled, added)
    return added


def _rotation(
    stream: torch.Tensor, direction: torch.Tensor, projection: torch.Tensor, sine: torch.Tensor, cosine: torch.Tensor
) -> torch.Tensor:
    """`(n, d_model)`: what turns each stream towards its direction. With s = |h - <h, d> d|, u = (|h|^2 d - <h, d> h) / (s |h|)."""
    across = (stream - projection.unsqueeze(-1) * direction).norm(dim=-1)
    squared = projection * projection + across * across
    turns = across > PARALLEL * squared.sqrt()
    slope = torch.where(turns, sine / across, 0.0)
    of_stream = torch.where(turns, cosine - 1 - slope * projection, 0.0)
    return of_stream.unsqueeze(-1) * stream + (slope * squared).unsqueeze(-1) * direction
