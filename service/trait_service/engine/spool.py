"""One request's activations of every position, on disk until they are fetched."""

import tempfile

import numpy as np


class Spool:
    """A file without a name: it disappears with the process, however that ends.

    Args:
        layers: Captured layers, in the order of the answer.
        d_model: Width of the residual stream.
    """

    def __init__(self, layers: list[int], d_model: int) -> None:
        self._layers = layers
        self._d_model = d_model
        self._file = tempfile.TemporaryFile(prefix="trait-spool-")  # noqa: SIM115 - open as long as the request
        self._pieces: list[tuple[int, int]] = []
        self.n_bytes = 0

    def write(self, layer: int, rows: np.ndarray) -> None:
        """Append the next positions of a layer, `(n, d_model)` float32."""
        self._file.write(np.ascontiguousarray(rows, dtype="<f4").tobytes())
        self._pieces.append((layer, len(rows)))
        self.n_bytes += rows.size * 4

    def read(self) -> np.ndarray:
        """`(n_positions, n_layers, d_model)` float32, residual units."""
        self._file.seek(0)
        of_layer: dict[int, list[np.ndarray]] = {layer: [] for layer in self._layers}
        for layer, n in self._pieces:
            raw = self._file.read(n * self._d_model * 4)
            of_layer[layer].append(np.frombuffer(raw, dtype="<f4").reshape(n, self._d_model))
        nothing = np.empty((0, self._d_model), dtype=np.float32)
        return np.stack([np.concatenate([nothing, *of_layer[layer]]) for layer in self._layers], axis=1)

    def close(self) -> None:
        """Free the disk space."""
        self._file.close()
