"""The terms and monitored directions of each live request on each layer, as the CUDA kernels read them."""

from typing import NamedTuple

import numpy as np
import torch
from trait_core.schema import MAX_MONITORED

from trait_service.engine.buffers import NO_ROW, Mirrored, send


class LayerTable(NamedTuple):
    """The table as a kernel reads it on one layer.

    Args:
        vector: `(n_rows, n_layers, n_terms)` int32: bank rows, -1 for none.
        numbers: `(n_rows, n_layers, n_terms, 2)` float32: a and b.
        rules: `(n_rows, n_layers, n_terms, 3)` int32: mode, start, stop.
        monitored: `(n_rows, n_layers, MAX_MONITORED, 2)` int32: bank row of each monitored direction, -1 for none, and
            1 if its cosine is wanted.
        layer: 0-based decoder block.
    """

    vector: torch.Tensor
    numbers: torch.Tensor
    rules: torch.Tensor
    monitored: torch.Tensor
    layer: int


class RequestTable:
    """`n_rows x n_layers x n_terms` entries; a row belongs to one request while it is in the batch.

    Written when batch membership changes: only the rows that changed travel to the device.
    """

    def __init__(self, n_layers: int, n_rows: int, n_terms: int, device: torch.device) -> None:
        shape = (n_rows, n_layers, n_terms)
        self.vector = Mirrored(shape, np.int32, device, fill=NO_ROW)
        self.numbers = Mirrored((*shape, 2), np.float32, device)
        self.rules = Mirrored((*shape, 3), np.int32, device)
        self.monitored = Mirrored((n_rows, n_layers, MAX_MONITORED, 2), np.int32, device, fill=NO_ROW)
        self._dirty: set[int] = set()

    def write(self, row: int, terms: np.ndarray, monitored: np.ndarray) -> None:
        """Replace a row by arrays of `TERM` and `MONITORED`."""
        self.clear(row)
        at = (row, terms["layer"], terms["k"])
        self.vector.array[at] = terms["bank_row"]
        self.numbers.array[at] = np.stack([terms["a"], terms["b"]], axis=-1)
        self.rules.array[at] = np.stack([terms[name] for name in ("mode", "start", "stop")], axis=-1)
        self.monitored.array[row, monitored["layer"], monitored["column"]] = np.stack(
            [monitored["bank_row"], monitored["cosine"]], axis=-1
        )

    def clear(self, row: int) -> None:
        """Make a row do nothing."""
        self.vector.array[row] = NO_ROW
        self.monitored.array[row] = NO_ROW
        self._dirty.add(row)

    def flush(self) -> None:
        """Copy the changed rows to the device."""
        for row in self._dirty:
            for mirrored in (self.vector, self.numbers, self.rules, self.monitored):
                send(mirrored.array[row], mirrored.tensor[row])
        self._dirty.clear()

    def on(self, layer: int) -> LayerTable:
        """The table, for a kernel on one layer."""
        return LayerTable(self.vector.tensor, self.numbers.tensor, self.rules.tensor, self.monitored.tensor, layer)
