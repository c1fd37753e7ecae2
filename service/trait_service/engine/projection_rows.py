"""Rows of projections that grow step by step, without a copy of all of them at each."""

import numpy as np


class ProjectionRows:
    """`(n_positions, n_columns)` float32.

    Args:
        n_columns: Numbers of a row.
    """

    def __init__(self, n_columns: int) -> None:
        self._rows = np.empty((0, n_columns), dtype=np.float32)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def append(self, rows: np.ndarray) -> None:
        """Add `(n, n_columns)` rows; the room doubles where they do not fit."""
        n = self._n + len(rows)
        if n > len(self._rows):
            larger = np.empty((max(n, 2 * len(self._rows)), self._rows.shape[1]), dtype=np.float32)
            larger[: self._n] = self.view()
            self._rows = larger
        self._rows[self._n : n] = rows
        self._n = n

    def view(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows `[start, stop)` of those so far, without a copy: later rows do not change them."""
        return self._rows[: self._n][start:stop]
