"""The vector file of each name, with its earlier versions: one versioned file next to the content store.

    <folder>/manifest.json
    {"schema_version": 2, "revision": 17,
     "names": {"sycophancy": [{"version": 1, "sha256": "sha256:...", "registered": "..."}, {"version": 2, ...}]}}

`revision` grows by one with every change, a name's `version` with every file that it is given. Several services may
share the folder: a change is made under a lock, on what the file holds then, and replaces the file as a whole.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from trait_core.errors import VectorFileError
from trait_core.locks import locked
from trait_core.schema import NAME_PATTERN, VectorVersion
from trait_core.storage import Signature, signature, write_atomically

FILE = "manifest.json"
BEFORE = "index.json"
"""Manifest of schema version 1: names and their hashes."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Manifest(BaseModel):
    """The content of the file.

    Attributes:
        names: Versions of each name, the oldest first; the name points to the last one.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[2] = 2
    revision: Annotated[int, Field(ge=0)] = 0
    names: dict[Name, Annotated[list[VectorVersion], Field(min_length=1)]] = {}

    def hashes(self) -> set[str]:
        """Every file that a name points to, or pointed to earlier."""
        return {version.sha256 for versions in self.names.values() for version in versions}

    def find(self, reference: str) -> tuple[str, VectorVersion] | None:
        """The name and version that a name, or the `sha256:...` of a file, refers to."""
        if reference in self.names:
            return reference, self.names[reference][-1]
        held = [
            (version is not versions[-1], name, version)
            for name, versions in self.names.items()
            for version in versions
            if version.sha256 == reference
        ]
        if not held:
            return None
        # Prefer a current name over a former one; break ties alphabetically.
        _, name, version = min(held, key=lambda entry: entry[:2])
        return name, version

    def point(self, name: str, sha256: str, keep: int) -> None:
        """Point a name to a file, and keep its last `keep` versions; a no-op if it does so already."""
        versions = self.names.get(name, [])
        if versions and versions[-1].sha256 == sha256:
            return
        number = versions[-1].version + 1 if versions else 1
        now = datetime.now(UTC).isoformat(timespec="seconds")
        added = VectorVersion(version=number, sha256=sha256, registered=now)
        self.names[name] = [*versions, added][-keep:]


class ManifestFile:
    """The manifest on disk.

    Args:
        folder: Created with the first change.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def signature(self) -> Signature:
        """A value that changes whenever the file does; None without a file."""
        return signature(self._folder / FILE) or signature(self._folder / BEFORE)

    def read(self) -> Manifest:
        """Read the manifest; an empty one if the file does not exist.

        Raises:
            VectorFileError: The file is not a manifest.
        """
        try:
            return Manifest.model_validate_json((self._folder / FILE).read_bytes())
        except FileNotFoundError:
            return self._read_before()
        except (OSError, ValidationError) as error:
            raise VectorFileError(f"{self._folder / FILE} is not a manifest of vectors: {error}") from error

    @contextmanager
    def change(self, then: Callable[[Manifest], None]) -> Iterator[Manifest]:
        """The manifest, to be changed inside the block by one process at a time, and written at its end.

        What the block raises leaves the file as it was; so does a block that changes nothing.

        Args:
            then: Called with what was written, before the next process may change it.

        Raises:
            VectorFileError: The file is not a manifest.
            OSError: The folder cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder / ".lock"):
            manifest = self.read()
            before = manifest.model_dump()
            yield manifest
            if manifest.model_dump() != before:
                manifest.revision += 1
                write_atomically(self._folder / FILE, manifest.model_dump_json(indent=1).encode())
            for half_written in self._folder.glob(f".{FILE}.*"):
                half_written.unlink(missing_ok=True)
            then(manifest)

    def _read_before(self) -> Manifest:
        path = self._folder / BEFORE
        try:
            index = json.loads(path.read_bytes())
            if index["version"] != 1:
                raise VectorFileError(f"{path} is of version {index['version']!r}; this service reads 1")
            names = {
                name: [VectorVersion(version=1, sha256=sha256, registered=None)]
                for name, sha256 in index["names"].items()
            }
            return Manifest(names=names)
        except FileNotFoundError:
            return Manifest()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise VectorFileError(f"{path} is not an index of vectors: {error}") from error
