"""How many attention heads a layer has, and how they lie in the engine's rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HeadShape:
    """The heads of a model's layers, and how they lie in the engine's rows.

    Args:
        n_heads: Query heads of a layer.
        head_dim: Numbers of what one puts out.
        d_model: Width of the stream.
    """

    n_heads: int
    head_dim: int
    d_model: int

    @property
    def per_row(self) -> int:
        """Heads in one row of the engine."""
        return self.d_model // self.head_dim

    @property
    def n_rows(self) -> int:
        """Rows for all heads of a layer."""
        return -(-self.n_heads // self.per_row)

    def rows(self, head: int | None) -> Sequence[int]:
        """The rows that hold a head, or all."""
        return range(self.n_rows) if head is None else [head // self.per_row]

    def width(self, head: int | None) -> int:
        """Numbers of one head, or of all."""
        return self.head_dim * (self.n_heads if head is None else 1)

    def take(self, kept: np.ndarray, head: int | None) -> np.ndarray:
        """A head, or all of them side by side.

        Args:
            kept: `(n, n_layers * n_rows, d_model)`: the rows of `rows(head)` of each layer.
            head: None: all.

        Returns:
            `(n, n_layers, width)`.
        """
        n_rows = len(self.rows(head))
        rows = kept.reshape(len(kept), kept.shape[1] // n_rows, n_rows, self.d_model)
        heads = rows[..., : self.per_row * self.head_dim].reshape(*rows.shape[:2], -1)
        first = 0 if head is None else head % self.per_row * self.head_dim
        return np.ascontiguousarray(heads[..., first : first + self.width(head)])
