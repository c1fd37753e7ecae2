"""A folder of immutable files, each named by the sha256 of its bytes.

    <folder>/<64 hex digits>.safetensors

A file never changes: it is written whole, and read back against its name. Several services may share the folder; the
manifest next to it says which files are wanted (`trait_service.registry.manifest`).
"""

import re
from collections.abc import Collection
from pathlib import Path

from trait_core.errors import VectorFileError
from trait_core.os_errors import sentence_of
from trait_core.schema import SHA256_PREFIX
from trait_core.storage import sha256_of, write_atomically

_KEPT = re.compile(r"^([0-9a-f]{64})\.safetensors$")
_HALF_WRITTEN = re.compile(r"^\.[0-9a-f]{64}\.safetensors\..+$")


class ContentStore:
    """Files by content.

    Args:
        folder: Created when the first file is added.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, data: bytes) -> str:
        """Keep the bytes; returns their `sha256:...`. An intact existing file is left unchanged.

        Raises:
            OSError: The folder cannot be written.
        """
        sha256 = sha256_of(data)
        if not self._is_whole(sha256):
            write_atomically(self._path(sha256), data)
        return sha256

    def read(self, sha256: str) -> bytes:
        """The bytes of `sha256:...`.

        Raises:
            VectorFileError: The file does not exist, or its content differs.
        """
        try:
            data = self._path(sha256).read_bytes()
        except OSError as error:
            raise VectorFileError(f"the file of {sha256} cannot be read: {sentence_of(error, place='')}") from error
        if sha256_of(data) != sha256:
            raise VectorFileError(f"the file of {sha256} is damaged: it holds other bytes")
        return data

    def keep_only(self, wanted: Collection[str]) -> None:
        """Delete every other file, and partial files left by a killed process. Only the holder of the write lock may call this."""
        for path in self._folder.iterdir():
            found = _KEPT.match(path.name)
            unwanted = found is not None and SHA256_PREFIX + found.group(1) not in wanted
            if unwanted or _HALF_WRITTEN.match(path.name):
                path.unlink(missing_ok=True)

    def _is_whole(self, sha256: str) -> bool:
        try:
            self.read(sha256)
        except VectorFileError:
            return False
        return True

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256.removeprefix(SHA256_PREFIX)}.safetensors"
