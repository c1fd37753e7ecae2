"""The vectors of a steering term: registered, inline, or the orthonormal directions of a subspace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
from trait_core.errors import InvalidRequestError
from trait_core.schema import SHA256_PREFIX, HookPoint, InlineVector, LayerEvidence
from trait_core.storage import sha256_of
from trait_core.vectors.inline import direction_of

from trait_service.registry.registry import RegisteredVector

INLINE = "inline"
"""Name of an inline vector in the report."""

MIN_NEW = 1e-3
"""Least length of the part of a unit direction that is orthogonal to the others of its subspace."""

Direction = tuple[str, bytes]
"""sha256 (hex) of a direction's float32 little-endian bytes, and the bytes."""


class Layered(Protocol):
    """A vector with directions on some layers."""

    @property
    def name(self) -> str:
        """Its name, for messages and reports."""
        ...

    @property
    def directions(self) -> Mapping[int, Direction]:
        """Layer -> direction."""
        ...

    @property
    def chosen_layer(self) -> int | None:
        """The layer to steer if the request names none; None: it must name one."""
        ...


@dataclass(frozen=True)
class GivenVector:
    """One vector of a term.

    Args:
        name: Its name in the report.
        sha256: `sha256:...` of the vector file; of an inline vector, of its direction.
        directions: Layer -> direction.
        evidence: Layer -> measurements that units are converted with.
        chosen_layer: The layer of a request that names none.
        hook_point: The place in a block that it is for; None: any.
        has_separation: False if only the layer's residual norm is known, so that there is no `separation`.
    """

    name: str
    sha256: str
    directions: Mapping[int, Direction] = field(repr=False)
    evidence: Mapping[int, LayerEvidence] = field(repr=False)
    chosen_layer: int | None = None
    hook_point: HookPoint | None = None
    has_separation: bool = True

    @classmethod
    def registered(cls, vector: RegisteredVector) -> "GivenVector":
        """A registered vector."""
        meta = vector.file.metadata
        return cls(vector.name, vector.sha256, vector.directions, meta.layers, vector.chosen_layer, meta.hook_point)

    @classmethod
    def inline(cls, vector: InlineVector, d_model: int, residual_norms: Sequence[float]) -> "GivenVector":
        """An inline vector: the same direction on every layer, without evidence but the model's residual norms.

        Raises:
            VectorFileError: It is not a direction of the model.
        """
        direction = identified(direction_of(vector, d_model))
        evidence = {
            layer: LayerEvidence(separation=0.0, centre=0.0, residual_norm=norm)
            for layer, norm in enumerate(residual_norms)
        }
        return cls(
            INLINE, SHA256_PREFIX + direction[0], dict.fromkeys(evidence, direction), evidence, has_separation=False
        )


def identified(direction: npt.NDArray[np.float32]) -> Direction:
    """A unit direction as the vector bank takes it."""
    raw = direction.astype("<f4").tobytes()
    return sha256_of(raw).removeprefix(SHA256_PREFIX), raw


def orthonormal(vectors: Sequence[GivenVector], layer: int, where: str) -> list[GivenVector]:
    """The vectors with directions on one layer that are orthogonal to one another and span the same subspace.

    The first direction stays as it is; each further one keeps the part that is orthogonal to those before it.

    Args:
        vectors: At least one.
        layer: 0-based decoder block.
        where: The field that holds the vectors.

    Raises:
        InvalidRequestError: One lies in the span of those before it.
    """
    if len(vectors) == 1:
        return list(vectors)
    rows = np.stack([np.frombuffer(vector.directions[layer][1], "<f4") for vector in vectors]).astype(np.float64)
    basis, triangle = np.linalg.qr(rows.T)
    for i, new in enumerate(np.abs(np.diag(triangle))):
        if new < MIN_NEW:
            raise InvalidRequestError(
                f"on layer {layer}, vector {i} ({vectors[i].name!r}) lies in the span of those before it (what is new in it has "
                f"length {new:.2g}, at least {MIN_NEW:g} is needed): leave it out",
                param=f"{where}[{i}]",
            )
    signed = basis * np.sign(np.diag(triangle))
    made = [identified(signed[:, i].astype(np.float32)) for i in range(1, len(vectors))]
    return [vectors[0], *(replace(v, directions={layer: d}) for v, d in zip(vectors[1:], made, strict=True))]
