"""Vector files: one safetensors file for one (model, trait, method, positions).

`layer.<l>` is a float32 unit direction of shape `(d_model,)` for the output of block l; the metadata entry `trait` holds
`VectorMetadata` as JSON. A file's identity is the sha256 of its bytes.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import ValidationError

from trait_core.errors import InvalidRequestError, VectorFileError, first_fault
from trait_core.schema import RESID_POST, HookPoint, LayerEvidence, ServiceInfo, VectorMetadata, is_name
from trait_core.storage import MAX_HEADER_BYTES, HeaderError, read_header, sha256_of, write_atomically
from trait_core.vectors.arrays import nearest_to_half, residual_norm, scale
from trait_core.vectors.model_shape import ModelShape

METADATA_KEY = "trait"
MAX_FILE_BYTES = 256 * 1024 * 1024
UNIT_TOLERANCE = 1e-3

_LAYER_KEY = re.compile(r"^layer\.(0|[1-9]\d{0,2})$")  # one name per layer: layer.07 would be a second name of layer 7


@dataclass(frozen=True)
class VectorFile:
    """A steering vector: unit directions with their scale and provenance.

    Args:
        metadata: Provenance and evidence; `metadata.layers` has the same keys as `directions`.
        directions: Layer -> `(d_model,)` float32, unit length.

    Raises:
        VectorFileError: A direction is missing, not finite, not of unit length or of another width.
    """

    metadata: VectorMetadata
    directions: dict[int, np.ndarray]

    def __post_init__(self) -> None:
        meta = self.metadata
        if not self.directions:
            raise VectorFileError("the file holds no directions: it needs at least one tensor layer.<l>")
        if set(self.directions) != set(meta.layers):
            raise VectorFileError(
                f"the file has directions for layers {sorted(self.directions)}, evidence for {sorted(meta.layers)}"
            )
        if meta.chosen_layer not in self.directions:
            raise VectorFileError(f"the chosen layer {meta.chosen_layer} is not among {sorted(self.directions)}")
        for layer, direction in self.directions.items():
            _check_direction(layer, direction, meta)

    @classmethod
    def from_arrays(
        cls,
        trait: str,
        arrays: Mapping[int, Any],
        model: ServiceInfo | ModelShape,
        *,
        method: str = "imported",
        chosen_layer: int | None = None,
        method_options: Mapping[str, Any] | None = None,
        at: HookPoint = RESID_POST,
    ) -> Self:
        """Make a vector file of arrays from any tool.

        ::

            vector = VectorFile.from_arrays("happy", {13: array}, client.info())

        Directions are scaled to unit length. `separation` becomes the length that the array had, so that coefficient 1 of that
        unit adds the array itself; the separation of the classes is unknown, and so is the centre, which becomes 0.

        Args:
            trait: Name of the vector: lower case letters, digits, `_`, `.` and `-`, 64 at most.
            arrays: 0-based decoder block -> `(d_model,)` numbers: a list, a numpy array, or a torch tensor
                of any float type on any device. An array `(n_layers, d_model)` is `dict(enumerate(array))`.
            model: The model that they are for, as `TraitClient.info()` and `LocalEngine.info()` give it.
            method: How the arrays were made.
            chosen_layer: Layer for requests that name none; None takes the one nearest to half of the depth.
            method_options: Further facts about how they were made.
            at: The place in the block that they are for: its *output*, or what its attention (`attn_out`) or MLP (`mlp_out`) adds
                to the stream.

        Raises:
            InvalidRequestError: An invalid name, or a chosen layer that has no array.
            VectorFileError: An array has another width, is zero or not finite, or its layer is beyond the model.
        """
        for name in (trait, method):
            if not is_name(name):
                raise InvalidRequestError(
                    f"{name[:80]!r} is not a valid name: lower case letters, digits, _ . and -, 64 at most"
                )
        shape = ModelShape.of_service(model) if isinstance(model, ServiceInfo) else model
        scaled = scale(arrays, shape)
        chosen, because = nearest_to_half(chosen_layer, list(scaled.lengths), shape)
        layers = {
            layer: LayerEvidence(separation=length, centre=0.0, residual_norm=residual_norm(layer, shape))
            for layer, length in scaled.lengths.items()
        }
        options = {
            "separation_is": "the vector's length in its own file",
            "centre_is": "unknown",
            **(method_options or {}),
        }
        metadata = VectorMetadata(
            trait=trait,
            model=shape.model,
            config_digest=shape.config_digest,
            weights_digest=shape.weights_digest,
            n_layers=shape.n_layers,
            d_model=shape.d_model,
            hook_point=at,
            method=method,
            method_options=options,
            positions="unknown",
            layers=layers,
            chosen_layer=chosen,
            chosen_because=because,
        )
        return cls(metadata, scaled.directions)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a vector file.

        Raises:
            VectorFileError: Not a vector file, or one that violates the format.
        """
        try:
            raw = read_header(data, MAX_HEADER_BYTES).get("__metadata__")
        except HeaderError as error:
            raise VectorFileError(str(error)) from error
        if not isinstance(raw, dict) or METADATA_KEY not in raw:
            raise VectorFileError(f"the safetensors header has no metadata entry {METADATA_KEY!r}")
        try:
            metadata = VectorMetadata.model_validate_json(raw[METADATA_KEY])
        except ValidationError as error:
            raise VectorFileError(f"metadata field {first_fault(error, whole=METADATA_KEY)}") from error
        try:
            tensors = safetensors.numpy.load(data)
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise VectorFileError(f"not a readable safetensors file: {error}") from error
        directions = {}
        for name, tensor in tensors.items():
            match = _LAYER_KEY.match(name)
            if match is None:
                raise VectorFileError(f"unknown tensor {name[:80]!r}: a vector file holds layer.<l> only")
            directions[int(match.group(1))] = tensor
        return cls(metadata, dict(sorted(directions.items())))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a vector file from disk.

        Raises:
            VectorFileError: As `from_bytes`; the message names the file.
        """
        if (size := Path(path).stat().st_size) > MAX_FILE_BYTES:
            raise VectorFileError(f"{path}: {size} bytes; a vector file has {MAX_FILE_BYTES} at most")
        try:
            return cls.from_bytes(Path(path).read_bytes())
        except VectorFileError as error:
            raise VectorFileError(f"{path}: {error}") from error

    def to_bytes(self) -> bytes:
        """The file's bytes: the same vector gives the same bytes."""
        tensors = {f"layer.{layer}": np.ascontiguousarray(d) for layer, d in sorted(self.directions.items())}
        return safetensors.numpy.save(tensors, metadata={METADATA_KEY: self.metadata.model_dump_json()})

    def save(self, path: str | Path) -> str:
        """Write atomically; returns the file's sha256."""
        data = self.to_bytes()
        write_atomically(Path(path), data)
        return sha256_of(data)

    def evidence(self, layer: int) -> LayerEvidence:
        """The measurements of a layer's direction.

        Raises:
            InvalidRequestError: The file has no direction for the layer.
        """
        if layer not in self.directions:
            raise InvalidRequestError(
                f"layer {layer} is not in vector {self.metadata.trait!r}: it has layers {layer_ranges(self.directions)}",
                param="layers",
            )
        return self.metadata.layers[layer]


def _check_direction(layer: int, direction: np.ndarray, meta: VectorMetadata) -> None:
    if not 0 <= layer < meta.n_layers:
        raise VectorFileError(f"layer {layer} is out of range: the model has layers 0..{meta.n_layers - 1}")
    if direction.dtype != np.float32 or direction.shape != (meta.d_model,):
        raise VectorFileError(
            f"layer.{layer} is {direction.dtype}{list(direction.shape)}; it must be float32[{meta.d_model}]"
        )
    if not np.isfinite(direction).all():
        raise VectorFileError(f"layer.{layer} holds a value that is not finite")
    norm = float(np.linalg.norm(direction))
    if abs(norm - 1) > UNIT_TOLERANCE:
        raise VectorFileError(f"layer.{layer} has length {norm:.6g}; a direction has length 1 (+-{UNIT_TOLERANCE})")


def layer_ranges(layers: Iterable[int]) -> str:
    """Layers for a message: `3, 8..12`."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
