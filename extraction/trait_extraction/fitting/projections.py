"""Projections of held-out scenarios, stored beside each vector file, so that reports need not ask the model again."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from trait_core.errors import VectorFileError
from trait_core.schema import VectorMetadata
from trait_core.vectors.file import VectorFile

from trait_extraction.data.split import Split
from trait_extraction.fitting.provenance import Provenance
from trait_extraction.reading.activations import ContrastiveActivations

FOLDER = "held_out"
METADATA_KEY = "provenance"


@dataclass(frozen=True)
class HeldOutProjections:
    """Projections `<h, d>` of the scenarios that a vector's directions were not fitted on.

    Args:
        provenance: Fields of `Provenance`; equal to the vector file's.
        layers: Row i of the projections is `layers[i]`.
        scenarios: `(n,)` int64, indices into the dataset's positive side.
        negative_scenarios: `(m,)` int64, indices into its negative side; of pairs, the same.
        positive: `(n_layers, n)` float32, residual units, not centred.
        negative: `(n_layers, m)` float32, the same for the other side.
    """

    provenance: dict[str, Any]
    layers: list[int]
    scenarios: npt.NDArray[np.int64]
    negative_scenarios: npt.NDArray[np.int64]
    positive: npt.NDArray[np.float32]
    negative: npt.NDArray[np.float32]

    @classmethod
    def of(cls, vector: VectorFile, activations: ContrastiveActivations, split: Split) -> "HeldOutProjections":
        """Project the held-out scenarios of a split on a vector's directions, `(d_model,)` for each layer."""
        layers = sorted(vector.directions)

        def project(side: npt.NDArray[np.float32], at: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
            """`(n, n_layers, d_model)` float32 -> `(len(layers), n_held_out)` float32, residual units."""
            rows = [side[at, layer].astype(np.float64) @ vector.directions[layer] for layer in layers]
            return np.stack(rows).astype(np.float32)

        return cls(
            provenance_of(vector.metadata),
            layers,
            split.held_out.positive,
            split.held_out.negative,
            project(activations.positive, split.held_out.positive),
            project(activations.negative, split.held_out.negative),
        )

    def at(self, layer: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Positives and negatives on one layer, `(n,)` each."""
        row = self.layers.index(layer)
        return self.positive[row], self.negative[row]

    def to_bytes(self) -> bytes:
        """One safetensors file; the same projections give the same bytes."""
        tensors: dict[str, npt.NDArray[Any]] = {
            "layers": np.asarray(self.layers, np.int64),
            "scenarios": self.scenarios.astype(np.int64),
            "negative_scenarios": self.negative_scenarios.astype(np.int64),
            "positive": np.ascontiguousarray(self.positive),
            "negative": np.ascontiguousarray(self.negative),
        }
        return safetensors.numpy.save(tensors, metadata={METADATA_KEY: json.dumps(self.provenance, sort_keys=True)})


def projections_path(vector_path: Path) -> Path:
    """Path of a vector file's projections: `held_out/<method>.safetensors` beside it."""
    return vector_path.parent / FOLDER / vector_path.name


def read_projections(vector_path: Path, metadata: VectorMetadata) -> HeldOutProjections | None:
    """The projections beside a vector file; None if there are none, or if they belong to another vector.

    Raises:
        VectorFileError: The file is damaged.
    """
    path = projections_path(vector_path)
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            provenance = json.loads((file.metadata() or {})[METADATA_KEY])
            found = {name: file.get_tensor(name) for name in ("layers", "scenarios", "positive", "negative")}
            names = set(file.keys())
            second = "negative_scenarios" if "negative_scenarios" in names else "scenarios"
            negatives = file.get_tensor(second)
    except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
        raise VectorFileError(f"{path}: not a complete file of projections: run `trait-extract run` again") from error
    if provenance != provenance_of(metadata):
        return None
    for name, scenarios in (("positive", found["scenarios"]), ("negative", negatives)):
        shape = (len(metadata.layers), len(scenarios))
        if found[name].shape != shape or found["layers"].shape != shape[:1]:
            raise VectorFileError(f"{path}: the projections are not {list(shape)}: run `trait-extract run --force`")
    layers = [int(n) for n in found["layers"]]
    return HeldOutProjections(provenance, layers, found["scenarios"], negatives, found["positive"], found["negative"])


def provenance_of(metadata: VectorMetadata) -> dict[str, Any]:
    """The fields that decide a vector's directions, as JSON values."""
    fields = set(Provenance.__dataclass_fields__)
    return json.loads(json.dumps(metadata.model_dump(include=fields)))  # type: ignore[no-any-return]
