"""Shards of a captured corpus: safetensors files, each the activations of consecutive prompts.

A shard is what `POST /v1/activations` answers for its prompts (`ActivationsMetadata` lists the tensors), where the
metadata says whose rows they are, too. The row of a prompt that could not be read is NaN, its counts 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import safetensors.numpy
from pydantic import ValidationError

from trait_client.http.activations import Activations
from trait_client.prompt_sets.manifest import CaptureIdentity, ShardEntry
from trait_core.errors import DatasetError, ServiceError
from trait_core.schema import ActivationsMetadata, Response
from trait_core.storage import read_header, sha256_of, write_atomically
from trait_core.vectors.file import METADATA_KEY


class _Owner(Response):
    """Whose rows a shard holds."""

    capture: str
    ids: list[str]
    failed: dict[str, str]


class _ShardMetadata(ActivationsMetadata):
    # In the one metadata entry: safetensors writes several in an order that changes.
    corpus: _Owner


def shard_name(index: int) -> str:
    """`shard-00000.safetensors`."""
    return f"shard-{index:05}.safetensors"


@dataclass
class Shard:
    """Prompts `[index * shard_size, ...)` of a capture.

    Args:
        identity: Of the capture.
        index: Which shard.
        ids: Of its prompts.
        activations: One row a prompt.
        failed: Prompt id -> why it could not be read.
        unread: Rows that are still to be read.
    """

    identity: CaptureIdentity
    index: int
    ids: list[str]
    activations: Activations = field(repr=False)
    failed: dict[str, str]
    unread: list[int]

    @classmethod
    def empty(cls, identity: CaptureIdentity, index: int, ids: Sequence[str]) -> Self:
        """Every row is still to be read."""
        n, n_layers = len(ids), len(identity.layers)
        tensors = {"n_prompt": np.zeros(n, np.int32), "n_response": np.zeros(n, np.int32)}
        for positions in identity.positions:
            tensors[f"mean/{positions}"] = np.full((n, n_layers, identity.d_model), np.nan, np.float32)
            tensors[f"norm/{positions}"] = np.full((n, n_layers), np.nan, np.float32)
            tensors[f"count/{positions}"] = np.zeros(n, np.int32)
        metadata = ActivationsMetadata(
            **identity.model_dump(
                include={"model", "config_digest", "chat_template_digest", "n_layers", "d_model", "dtype"}
            ),
            layers=identity.layers,
            positions=identity.positions,
            responses=[""] * n if identity.generate is not None else None,
        )
        return cls(identity, index, list(ids), Activations(metadata, tensors), {}, list(range(n)))

    @classmethod
    def load(cls, path: Path, identity: CaptureIdentity, index: int, ids: Sequence[str]) -> Self:
        """Read a shard of this capture.

        Raises:
            DatasetError: It is no shard, or one of another capture or other prompts.
        """
        try:
            data = path.read_bytes()
            raw = read_header(data)["__metadata__"][METADATA_KEY]
            owner = _ShardMetadata.model_validate_json(raw).corpus
            activations = Activations.from_bytes(data)
        except (OSError, ValueError, KeyError, TypeError, ValidationError, ServiceError) as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error
        if owner.capture != identity.digest() or owner.ids != list(ids):
            raise DatasetError(f"{path} belongs to another capture")
        writable = {name: tensor.copy() for name, tensor in activations.tensors.items()}
        unread = [row for row, prompt_id in enumerate(owner.ids) if prompt_id in owner.failed]
        return cls(identity, index, owner.ids, Activations(activations.metadata, writable), owner.failed, unread)

    def fill(self, rows: Sequence[int], read: Activations) -> None:
        """Take over what the service answered for these rows.

        Raises:
            ServiceError: It answered for another model, or other layers or positions.
        """
        mine, theirs = self.activations.metadata, read.metadata
        for name in ("model", "config_digest", "chat_template_digest", "dtype", "layers", "positions"):
            if getattr(mine, name) != getattr(theirs, name):
                raise ServiceError(
                    f"the service answered for {name} {getattr(theirs, name)!r}, not {getattr(mine, name)!r}: "
                    "was it replaced by another one?"
                )
        for name, tensor in self.activations.tensors.items():
            tensor[list(rows)] = read.tensors[name]
        if mine.responses is not None and theirs.responses is not None:
            for row, response in zip(rows, theirs.responses, strict=True):
                mine.responses[row] = response

    def save(self, folder: Path) -> ShardEntry:
        """Write to a temporary name, flush to disk, rename."""
        metadata = _ShardMetadata(
            **self.activations.metadata.model_dump(),
            corpus=_Owner(capture=self.identity.digest(), ids=self.ids, failed=self.failed),
        )
        data = safetensors.numpy.save(self.activations.tensors, metadata={METADATA_KEY: metadata.model_dump_json()})
        write_atomically(folder / shard_name(self.index), data)
        return self.entry(sha256_of(data))

    def entry(self, sha256: str) -> ShardEntry:
        """Its line in the manifest."""
        return ShardEntry(
            file=shard_name(self.index),
            sha256=sha256,
            first=self.index * self.identity.shard_size,
            n_prompts=len(self.ids),
            failed=self.failed,
        )
