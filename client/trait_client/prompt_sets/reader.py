"""`read_capture`: the activations of a captured prompt set as arrays, all prompts in order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from trait_client.http.activations import Activations
from trait_client.prompt_sets.manifest import MANIFEST, Manifest
from trait_core.errors import DatasetError, InvalidRequestError
from trait_core.positions import Positions


@dataclass(frozen=True)
class Capture:
    """A captured prompt set; row i is prompt i. Only the requested tensors are read from disk.

    Args:
        folder: Folder of the shards.
        manifest: Model, layers, positions, ids, outcomes and failed prompts of the capture.
    """

    folder: Path
    manifest: Manifest

    @property
    def ids(self) -> list[str]:
        """Ids of the prompts."""
        return self.manifest.ids

    def mean(self, positions: str, layer: int | None = None) -> np.ndarray:
        """Mean residual stream over positions, float32, residual units.

        NaN where a prompt could not be read, or has no such position: `count` is 0 there.

        Args:
            positions: Positions that were captured.
            layer: 0-based decoder block; None for all that were captured.

        Returns:
            `(n, n_layers_read, d_model)`, or `(n, d_model)` of one layer.

        Raises:
            InvalidRequestError: These positions or this layer were not captured.
            DatasetError: A shard cannot be read.
        """
        return self._by_layer("mean", positions, layer)

    def norm(self, positions: str, layer: int | None = None) -> np.ndarray:
        """Mean of the token norms, residual units, `(n, n_layers_read)` or `(n,)` float32; see `mean`."""
        return self._by_layer("norm", positions, layer)

    def count(self, positions: str) -> np.ndarray:
        """Number of pooled positions, `(n,)` int32; 0 if a prompt has none or could not be read."""
        return self._tensor(f"count/{self._captured(positions)}")

    @property
    def n_prompt(self) -> np.ndarray:
        """Number of prompt tokens, `(n,)` int32."""
        return self._tensor("n_prompt")

    @property
    def n_response(self) -> np.ndarray:
        """Number of response tokens, generated ones included, `(n,)` int32."""
        return self._tensor("n_response")

    @property
    def responses(self) -> list[str] | None:
        """Generated replies; "" if the prompt set gave one. None if the capture generates none."""
        if self.manifest.generate is None:
            return None
        return [
            text
            for path in self._paths()
            for text in Activations.from_bytes(path.read_bytes()).metadata.responses or ()
        ]

    def _by_layer(self, kind: str, positions: str, layer: int | None) -> np.ndarray:
        if layer is not None and layer not in self.manifest.layers:
            raise InvalidRequestError(f"layer {layer} was not captured: {self.manifest.layers} were", param="layer")
        row = None if layer is None else self.manifest.layers.index(layer)
        pooled = self._tensor(f"{kind}/{self._captured(positions)}", row)
        # The service answers 0 for a text without such positions: that is not data.
        pooled[self.count(positions) == 0] = np.nan
        return pooled

    def _captured(self, positions: str) -> str:
        name = str(Positions.parse(positions))
        if name not in self.manifest.positions:
            raise InvalidRequestError(
                f"positions {name} were not captured: {', '.join(self.manifest.positions)} were", param="positions"
            )
        return name

    def _tensor(self, name: str, layer_row: int | None = None) -> np.ndarray:
        parts = []
        for path in self._paths():
            try:
                with safetensors.safe_open(path, framework="numpy") as shard:  # type: ignore[no-untyped-call]
                    whole: Any = shard.get_slice(name)
                    parts.append(whole[:] if layer_row is None else whole[:, layer_row])
            except (OSError, safetensors.SafetensorError) as error:
                raise DatasetError(f"{path} cannot be read: {error}") from error
        return np.concatenate(parts)

    def _paths(self) -> list[Path]:
        return [self.folder / entry.file for entry in self.manifest.shards]


def read_capture(folder: str | Path) -> Capture:
    """Open a captured prompt set.

    Raises:
        DatasetError: The folder has no capture, or an unfinished one.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder)
    if len(manifest.shards) < manifest.n_shards:
        raise DatasetError(
            f"{folder / MANIFEST}: {len(manifest.shards)} of {manifest.n_shards} shards are captured: "
            "run the same capture again to finish it"
        )
    return Capture(folder, manifest)
