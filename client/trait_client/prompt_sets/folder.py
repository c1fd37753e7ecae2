"""Folder of a capture: its lock, its valid shards, and the shards that are still missing."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trait_client.prompt_sets.manifest import MANIFEST, CaptureIdentity, Manifest, ShardEntry
from trait_client.prompt_sets.prompts import SetPrompt
from trait_client.prompt_sets.shards import Shard, shard_name
from trait_core import locks
from trait_core.errors import DatasetError, InvalidRequestError
from trait_core.storage import sha256_of


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for writing; a kill lets go of it.

    Raises:
        InvalidRequestError: Another process captures into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.locked(folder / ".lock", wait=False))
        except BlockingIOError as error:
            raise InvalidRequestError(f"another process captures into {folder}", param="out") from error
        yield


@dataclass
class CaptureFolder:
    """Folder of one capture.

    Args:
        path: The folder, locked by the caller.
        manifest: The manifest on disk.
        damaged: Shards to capture again, because their file does not match the manifest.
    """

    path: Path
    manifest: Manifest
    damaged: list[str]

    @classmethod
    def open(cls, path: Path, identity: CaptureIdentity, prompts: Sequence[SetPrompt]) -> "CaptureFolder":
        """Begin a capture, or continue the one in the folder; every shard is read and checked.

        Raises:
            InvalidRequestError: The folder has another capture; the message lists the differences.
            DatasetError: The manifest cannot be read.
        """
        manifest = Manifest(
            **identity.model_dump(),
            ids=[prompt.prompt_id for prompt in prompts],
            outcomes=[prompt.outcome for prompt in prompts],
            prompt_sets=[prompt.prompt_set for prompt in prompts],
            metadata=[dict(prompt.metadata) for prompt in prompts],
            shards=[],
        )
        entries: dict[str, ShardEntry] = {}
        if (path / MANIFEST).exists():
            stored = Manifest.load(path)
            if differences := stored.differences(identity):
                raise InvalidRequestError(
                    f"{path} holds another capture: {'; '.join(differences)}. Give another --out, or the same options",
                    param="out",
                )
            entries = {entry.file: entry for entry in stored.shards}
        elif next(path.glob("shard-*.safetensors"), None) is not None:
            raise InvalidRequestError(f"{path} holds shards and no {MANIFEST}: give another --out", param="out")
        for leftover in (*path.glob(".shard-*"), *path.glob(f".{MANIFEST}.*")):
            leftover.unlink()
        folder = cls(path, manifest, [])
        for index in range(manifest.n_shards):
            name = shard_name(index)
            if entry := folder._valid_entry(index, entries.get(name)):
                manifest.shards.append(entry)
            elif name in entries:
                folder.damaged.append(name)
        manifest.save(path)
        return folder

    def unfinished(self) -> Iterator[Shard]:
        """Shards with unread prompts: those never written, and those where some prompts failed."""
        entries = {entry.file: entry for entry in self.manifest.shards}
        for index in range(self.manifest.n_shards):
            entry = entries.get(shard_name(index))
            if entry is None:
                yield Shard.empty(self.manifest, index, self._ids(index))
            elif entry.failed:
                yield Shard.load(self.path / entry.file, self.manifest, index, self._ids(index))

    def commit(self, shard: Shard) -> None:
        """Write a shard, then the manifest that names it."""
        entry = shard.save(self.path)
        others = [stored for stored in self.manifest.shards if stored.file != entry.file]
        self.manifest.shards = sorted([*others, entry], key=lambda stored: stored.first)
        self.manifest.save(self.path)

    def _valid_entry(self, index: int, entry: ShardEntry | None) -> ShardEntry | None:
        """The entry of a valid shard, also of one that a kill left out of the manifest; None if it must be captured."""
        path = self.path / shard_name(index)
        try:
            sha256 = sha256_of(path.read_bytes())
            shard = Shard.load(path, self.manifest, index, self._ids(index))
        except (OSError, DatasetError):
            return None
        return shard.entry(sha256) if entry is None or entry.sha256 == sha256 else None

    def _ids(self, index: int) -> list[str]:
        size = self.manifest.shard_size
        return self.manifest.ids[index * size : (index + 1) * size]
