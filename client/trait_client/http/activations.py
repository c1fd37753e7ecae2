"""The answer of `POST /v1/activations`: pooled activations in one safetensors file with metadata."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import ValidationError

from trait_core.errors import InvalidRequestError, ServiceError
from trait_core.positions import Positions
from trait_core.schema import ActivationsMetadata, is_heads
from trait_core.storage import read_header
from trait_core.vectors.file import METADATA_KEY, VectorFile


@dataclass(frozen=True)
class Activations:
    """Activations of n texts, pooled over positions on the layers that were read.

    Args:
        metadata: Model, layers and positions that were read.
        tensors: Name -> tensor, as listed in `ActivationsMetadata`.

    Raises:
        ServiceError: A tensor that the metadata announces is missing, or has another shape or type.
    """

    metadata: ActivationsMetadata
    tensors: dict[str, np.ndarray] = field(repr=False)

    def __post_init__(self) -> None:
        n_layers, width = len(self.metadata.layers), self.metadata.width or self.metadata.d_model
        n_inputs = len(self._tensor("n_prompt"))
        expected: dict[str, tuple[tuple[int, ...], type]] = {
            "n_prompt": ((n_inputs,), np.int32),
            "n_response": ((n_inputs,), np.int32),
        }
        if self.metadata.pooling == "none":
            (name,) = self.metadata.positions
            expected[f"count/{name}"] = ((n_inputs,), np.int32)
            expected[f"each/{name}"] = ((int(self._tensor(f"count/{name}").sum()), n_layers, width), np.float32)
        for positions in self.metadata.positions if self.metadata.pooling == "mean" else []:
            expected[f"mean/{positions}"] = ((n_inputs, n_layers, width), np.float32)
            if not is_heads(self.metadata.hook_point):
                expected[f"norm/{positions}"] = ((n_inputs, n_layers), np.float32)
            expected[f"count/{positions}"] = ((n_inputs,), np.int32)
        if "nll" in self.tensors:
            expected["nll"] = ((n_inputs,), np.float32)
        for name, (shape, dtype) in expected.items():
            tensor = self._tensor(name)
            if tensor.shape != shape or tensor.dtype != dtype:
                raise ServiceError(
                    f"tensor {name!r} of the answer is {tensor.dtype}{list(tensor.shape)}; "
                    f"it must be {np.dtype(dtype)}{list(shape)}. Do client and service have the same version?"
                )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the answer's body.

        Raises:
            ServiceError: Not such a file.
        """
        try:
            raw = read_header(data)["__metadata__"][METADATA_KEY]
            metadata = ActivationsMetadata.model_validate_json(raw)
            return cls(metadata, safetensors.numpy.load(data))
        except (ValueError, KeyError, TypeError, ValidationError, safetensors.SafetensorError) as error:
            raise ServiceError(f"the activations that the service answered cannot be read: {error}") from error

    def __len__(self) -> int:
        return len(self.n_prompt)

    def part(self, start: int, stop: int) -> "Activations":
        """The activations of inputs `start` to `stop`, copied, so that the whole answer can be dropped.

        Raises:
            InvalidRequestError: The answer holds every position.
        """
        if self.metadata.pooling != "mean":
            raise InvalidRequestError("the answer holds every position: use each()", param="pooling")
        responses = None if self.metadata.responses is None else self.metadata.responses[start:stop]
        tensors = {name: tensor[start:stop].copy() for name, tensor in self.tensors.items()}
        return Activations(self.metadata.model_copy(update={"responses": responses}), tensors)

    def mean(self, positions: str) -> np.ndarray:
        """Mean residual stream, `(n, n_layers_read, d_model)` float32 (of heads: `width`), residual units. NaN if a text has no such position.

        Raises:
            InvalidRequestError: These positions were not requested, or were requested without pooling.
        """
        return self._where_counted("mean", positions)

    def each(self, i: int) -> np.ndarray:
        """The residual stream of input `i` at every position, `(n_positions, n_layers_read, d_model)` float32.

        Raises:
            InvalidRequestError: The request was for means.
        """
        (name,) = self.metadata.positions[:1]
        if self.metadata.pooling != "none":
            raise InvalidRequestError("the answer holds means: set pooling='none' in the request", param="pooling")
        counts = self.tensors[f"count/{name}"]
        start = int(counts[:i].sum())
        return self.tensors[f"each/{name}"][start : start + int(counts[i])]

    def norm(self, positions: str) -> np.ndarray:
        """Mean of the token norms, `(n, n_layers_read)` float32, residual units. NaN if a text has no such position.

        Raises:
            InvalidRequestError: These positions were not requested, or attention heads were, of which there is none.
        """
        if is_heads(self.metadata.hook_point):
            raise InvalidRequestError(
                f"there are no norms of {self.metadata.hook_point}: ask for pooling='none' and take them", param="at"
            )
        return self._where_counted("norm", positions)

    def count(self, positions: str) -> np.ndarray:
        """Number of pooled positions, `(n,)` int32; 0 if a text has none.

        Raises:
            InvalidRequestError: These positions were not requested.
        """
        return self.tensors[f"count/{self._read_positions(positions)}"]

    @property
    def n_prompt(self) -> np.ndarray:
        """Prompt tokens, `(n,)` int32."""
        return self.tensors["n_prompt"]

    @property
    def n_response(self) -> np.ndarray:
        """Response tokens, including generated ones, `(n,)` int32."""
        return self.tensors["n_response"]

    @property
    def nll(self) -> np.ndarray:
        """Mean negative log-likelihood of a response token, `(n,)` float32, nats.

        Raises:
            InvalidRequestError: The request was without logprobs.
        """
        if "nll" not in self.tensors:
            raise InvalidRequestError("the answer holds no nll: set logprobs=True in the request", param="logprobs")
        return self.tensors["nll"]

    def projection(self, vector_file: VectorFile, layer: int, positions: str, *, centred: bool = False) -> np.ndarray:
        """Projection of the mean residual stream on a layer's unit direction: `mean · d`, minus `centre` if centred.

        Args:
            vector_file: Holds the direction and the centre.
            layer: 0-based decoder block, read by the request and present in the file.
            positions: One of the request's positions.
            centred: Subtract the midpoint of the file's two training classes: above 0 is the side of the trait.

        Returns:
            `(n,)` float32, residual units. NaN if a text has no such position.

        Raises:
            InvalidRequestError: The layer was not read or is not in the file; the positions were not requested; the
                file is for another width.
        """
        meta = vector_file.metadata
        if (meta.n_layers, meta.d_model) != (self.metadata.n_layers, self.metadata.d_model):
            raise InvalidRequestError(
                f"the vector of {meta.model} ({meta.n_layers} layers, d_model {meta.d_model}) does not fit activations "
                f"of {self.metadata.model} ({self.metadata.n_layers} layers, d_model {self.metadata.d_model})",
                param="vector",
            )
        if meta.hook_point != self.metadata.hook_point:
            raise InvalidRequestError(
                f"the vector {meta.trait!r} is for {meta.hook_point}, and the activations are those of {self.metadata.hook_point}",
                param="vector",
            )
        if layer not in self.metadata.layers:
            raise InvalidRequestError(
                f"layer {layer} was not read: it is not in {self.metadata.layers}", param="layers"
            )
        centre = vector_file.evidence(layer).centre * centred
        mean = self.mean(positions)[:, self.metadata.layers.index(layer)]
        projected: np.ndarray = mean @ vector_file.directions[layer] - np.float32(centre)
        return projected.astype(np.float32)

    def _where_counted(self, kind: str, positions: str) -> np.ndarray:
        """A pooled tensor, NaN for a text without such positions: the 0 that the service answers for it is not data."""
        pooled = self.tensors[f"{kind}/{self._pooled(positions)}"]
        absent = self.count(positions) == 0
        return (
            np.where(absent.reshape(-1, *[1] * (pooled.ndim - 1)), np.float32("nan"), pooled)
            if absent.any()
            else pooled
        )

    def _pooled(self, positions: str) -> str:
        if self.metadata.pooling != "mean":
            raise InvalidRequestError("the answer holds every position: use each()", param="pooling")
        return self._read_positions(positions)

    def _read_positions(self, positions: str) -> str:
        for name in (positions, str(Positions.parse(positions))):
            if name in self.metadata.positions:
                return name
        raise InvalidRequestError(
            f"positions {positions!r} were not requested: the answer holds {', '.join(self.metadata.positions)}",
            param="positions",
        )

    def _tensor(self, name: str) -> np.ndarray:
        if name not in self.tensors:
            raise ServiceError(f"the answer has no tensor {name!r}. Do client and service have the same version?")
        return self.tensors[name]
