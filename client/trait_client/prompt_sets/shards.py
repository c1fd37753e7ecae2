"""Shards of a captured prompt set: safetensors files with the activations of consecutive prompts.

A shard has the tensors that `POST /v1/activations` returns (listed in `ActivationsMetadata`), and its metadata also names
the prompts. The row of a prompt that could not be read is NaN, its counts are 0.
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
    """The capture and the prompts that a shard belongs to."""

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
        identity: Identity of the capture.
        index: Number of the shard, from 0.
        ids: Ids of its prompts.
        activations: Activations, one row for each prompt.
        failed: Prompt id -> reason why it could not be read.
        unread: Rows that have not been read yet.
    """

    identity: CaptureIdentity
    index: int
    ids: list[str]
    activations: Activations = field(repr=False)
    failed: dict[str, str]
    unread: list[int]

    @classmethod
    def empty(cls, identity: CaptureIdentity, index: int, ids: Sequence[str]) -> Self:
        """Make a shard without any row read."""
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
            hook_point=identity.at,
            layers=identity.layers,
            positions=identity.positions,
            responses=[""] * n if identity.generate is not None else None,
        )
        return cls(identity, index, list(ids), Activations(metadata, tensors), {}, list(range(n)))

    @classmethod
    def load(cls, path: Path, identity: CaptureIdentity, index: int, ids: Sequence[str]) -> Self:
        """Read a shard of this capture.

        Raises:
            DatasetError: The file is not a shard, or belongs to another capture or other prompts.
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
        """Store the service's answer for these rows.

        Raises:
            ServiceError: The answer is for another model, or other layers or positions.
        """
        mine, theirs = self.activations.metadata, read.metadata
        for name in ("model", "config_digest", "chat_template_digest", "dtype", "hook_point", "layers", "positions"):
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
        """Write the shard atomically; return its entry."""
        metadata = _ShardMetadata(
            **self.activations.metadata.model_dump(),
            corpus=_Owner(capture=self.identity.digest(), ids=self.ids, failed=self.failed),
        )
        data = safetensors.numpy.save(self.activations.tensors, metadata={METADATA_KEY: metadata.model_dump_json()})
        write_atomically(folder / shard_name(self.index), data)
        return self.entry(sha256_of(data))

    def entry(self, sha256: str) -> ShardEntry:
        """Entry of the shard in the manifest."""
        return ShardEntry(
            file=shard_name(self.index),
            sha256=sha256,
            first=self.index * self.identity.shard_size,
            n_prompts=len(self.ids),
            failed=self.failed,
        )
