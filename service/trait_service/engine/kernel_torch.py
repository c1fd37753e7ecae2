"""The operation in plain torch: the CPU path, and the reference for the Triton one."""

from typing import NamedTuple, Self

import numpy as np
import torch

from trait_service.engine.arithmetic import delta
from trait_service.engine.buffers import NO_ROW, LayerTable, RequestTable


class StepTokens(NamedTuple):
    """The steered tokens of one step: where each stands in the step, its request's row, its absolute position. All `(n,)` int64."""

    place: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor

    @classmethod
    def of(cls, places: np.ndarray, rows: np.ndarray, positions: np.ndarray) -> Self:
        """Pick the tokens at `places` out of the step's rows and positions."""
        return cls(
            torch.from_numpy(places),
            torch.from_numpy(rows[places].astype(np.int64)),
            torch.from_numpy(positions[places].astype(np.int64)),
        )

    @classmethod
    def none(cls) -> Self:
        """No token."""
        empty = np.empty(0, dtype=np.int64)
        return cls.of(empty, empty, empty)


def steer(
    residual: torch.Tensor,
    hidden: torch.Tensor | None,
    bank: torch.Tensor,
    table: LayerTable,
    tokens: StepTokens,
) -> None:
    """Apply one layer's terms, in order, to the steered tokens.

    Args:
        residual: `(n_tokens, d_model)`, changed in place.
        hidden: `(n_tokens, d_model)` or None: the other half of the stream.
        bank: `(n_bank_rows, d_model)` float32.
        table: The layer's part of the request table.
        tokens: The step's steered tokens.
    """
    for k in range(table.terms_used):
        bank_row = table.vector[tokens.row, k]
        rules = table.rules[tokens.row, k]
        active = (
            (bank_row != NO_ROW)
            & (tokens.position >= rules[:, RequestTable.START])
            & (tokens.position < rules[:, RequestTable.STOP])
        )
        at = tokens.place[active]
        if at.numel() == 0:
            continue
        direction = bank[bank_row[active]]
        a, b = table.numbers[tokens.row[active], k].unbind(-1)
        if table.additive:
            added = a.unsqueeze(-1) * direction
        else:
            rules = rules[active]
            added = delta(
                _stream(residual, hidden, at),
                direction,
                a,
                b,
                rules[:, RequestTable.MODE],
                rules[:, RequestTable.PRESERVE_NORM] != 0,
            )
        residual[at] = (residual[at].to(torch.float32) + added).to(residual.dtype)


def capture(
    residual: torch.Tensor,
    hidden: torch.Tensor | None,
    tokens: torch.Tensor,
    slots: torch.Tensor,
    sums: torch.Tensor,
    norms: torch.Tensor,
) -> None:
    """Add the stream at `tokens` to the pools at `slots`.

    Args:
        residual: `(n_tokens, d_model)`.
        hidden: `(n_tokens, d_model)` or None: the other half of the stream.
        tokens: `(n,)` int64: places in the step; one may stand here for several pools.
        slots: `(n,)` int64: the pool of each.
        sums: `(n_rows, d_model)` float32, changed in place.
        norms: `(n_rows,)` float32, changed in place.
    """
    stream = _stream(residual, hidden, tokens)
    sums.index_add_(0, slots, stream)
    norms.index_add_(0, slots, stream.norm(dim=-1))


def _stream(residual: torch.Tensor, hidden: torch.Tensor | None, at: torch.Tensor) -> torch.Tensor:
    picked = residual[at].to(torch.float32)
    return picked if hidden is None else picked + hidden[at].to(torch.float32)
