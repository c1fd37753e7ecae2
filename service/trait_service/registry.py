"""Registered steering vectors: content-addressed files and a small index of names, in one folder for each model.

    <root>/<model>/<sha256>.safetensors             <model>: digests of its config and its weights
    <root>/<model>/index.json                       {"version": 1, "names": {"sycophancy": "sha256:..."}}

Files and index are written atomically, the file first, so that a kill leaves a registry that loads. Several services
may share a folder: changes are made under a lock, and the index is read again when another process has written it.
"""

import fcntl
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trait_client.errors import InvalidRequestError, UnknownVectorError, VectorFileError
from trait_client.schema import VectorInfo, is_name
from trait_client.vector_file import VectorFile, sha256_of, write_atomically

logger = logging.getLogger(__name__)

INDEX_VERSION = 1
PREFIX = "sha256:"


@dataclass(frozen=True)
class RegisteredVector:
    """A vector file under a name."""

    name: str
    sha256: str
    file: VectorFile

    @cached_property
    def directions(self) -> dict[int, tuple[str, bytes]]:
        """Layer -> (sha256 hex, float32 little-endian bytes) of its unit direction: its identity in the bank."""
        raw = {layer: direction.astype("<f4").tobytes() for layer, direction in self.file.directions.items()}
        return {layer: (sha256_of(data).removeprefix(PREFIX), data) for layer, data in raw.items()}

    def info(self) -> VectorInfo:
        """The registry's answer for this vector."""
        return VectorInfo(name=self.name, sha256=self.sha256, metadata=self.file.metadata)


class VectorRegistry:
    """Names -> vector files, kept on disk and in memory.

    Args:
        folder: The folder of one model; created when the first vector is registered.
        max_vectors: Names at most.
        max_bytes: Size of one file at most.
    """

    def __init__(self, folder: Path, *, max_vectors: int = 1024, max_bytes: int = 64 * 2**20) -> None:
        self._folder = folder
        self._max_vectors = max_vectors
        self._max_bytes = max_bytes
        self._mutex = threading.Lock()
        self._vectors: dict[str, RegisteredVector] = {}
        self._signature: tuple[int, int] | None = None
        with self._mutex:
            self._refresh()

    def all(self) -> list[RegisteredVector]:
        """Every registered vector, by name."""
        with self._mutex:
            self._refresh()
            return [self._vectors[name] for name in sorted(self._vectors)]

    def get(self, reference: str) -> RegisteredVector:
        """A vector by name or `sha256:...`.

        Raises:
            UnknownVectorError: None is registered; the message names those that are.
        """
        with self._mutex:
            self._refresh()
            if reference in self._vectors:
                return self._vectors[reference]
            for vector in self._vectors.values():
                if vector.sha256 == reference:
                    return vector
            known = ", ".join(sorted(self._vectors)[:20]) or "none"
        raise UnknownVectorError(f"no vector {reference[:80]!r} is registered (registered: {known})", param="vector")

    def put(self, name: str, data: bytes) -> RegisteredVector:
        """Register a vector file under a name, in place of what the name held.

        Raises:
            InvalidRequestError: The name, the size or the number of vectors is outside its range.
            VectorFileError: The bytes are not a vector file.
        """
        if not is_name(name):
            raise InvalidRequestError(
                f"{name[:80]!r} is not a name: 1 to 64 of a-z, 0-9, '_', '.', '-', beginning with a letter or a digit",
                param="name",
            )
        if len(data) > self._max_bytes:
            raise InvalidRequestError(f"the vector file has {len(data)} bytes; at most {self._max_bytes}")
        vector = RegisteredVector(name, sha256_of(data), VectorFile.from_bytes(data))
        with self._mutex, self._lock():
            self._refresh()
            if name not in self._vectors and len(self._vectors) >= self._max_vectors:
                raise InvalidRequestError(
                    f"{len(self._vectors)} vectors are registered, at most {self._max_vectors}: delete one first"
                )
            write_atomically(self._path(vector.sha256), data)
            replaced = self._vectors.get(name)
            self._vectors[name] = vector
            self._write_index()
            self._drop_file(replaced)
        return vector

    def delete(self, name: str) -> None:
        """Forget a name, and its file where no other name holds it.

        Raises:
            UnknownVectorError: The name is not registered.
        """
        vector = self.get(name)
        with self._mutex, self._lock():
            self._refresh()
            self._vectors.pop(vector.name, None)
            self._write_index()
            self._drop_file(vector)

    def read(self, vector: RegisteredVector) -> bytes:
        """The file's bytes, as they were put."""
        return self._path(vector.sha256).read_bytes()

    @property
    def _index(self) -> Path:
        return self._folder / "index.json"

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256.removeprefix(PREFIX)}.safetensors"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _refresh(self) -> None:
        """Read the index again where it has changed on disk."""
        try:
            stat = self._index.stat()
        except FileNotFoundError:
            self._vectors, self._signature = {}, None
            return
        signature = (stat.st_ino, stat.st_mtime_ns)
        if signature == self._signature:
            return
        loaded = {}
        for name, sha256 in self._read_index().items():
            current = self._vectors.get(name)
            try:
                loaded[name] = current if current and current.sha256 == sha256 else self._load(name, sha256)
            except (OSError, VectorFileError) as error:
                # Requests that use it are refused: an unknown vector is an error, never an unsteered answer.
                logger.error("vector %s cannot be loaded and is left out: %s", name, error)  # noqa: TRY400
        self._vectors, self._signature = loaded, signature

    def _read_index(self) -> dict[str, str]:
        try:
            index = json.loads(self._index.read_bytes())
            names = index["names"]
            if index["version"] != INDEX_VERSION or not all(is_name(name) for name in names):
                raise VectorFileError(f"{self._index} is not a version {INDEX_VERSION} index of vectors")
        except (ValueError, KeyError, TypeError) as error:
            raise VectorFileError(f"{self._index} is not an index of vectors: {error}") from error
        return dict(names)

    def _load(self, name: str, sha256: str) -> RegisteredVector:
        data = self._path(sha256).read_bytes()
        if sha256_of(data) != sha256:
            raise VectorFileError(f"{self._path(sha256)} does not hold {sha256}")
        return RegisteredVector(name, sha256, VectorFile.from_bytes(data))

    def _write_index(self) -> None:
        names = {name: vector.sha256 for name, vector in sorted(self._vectors.items())}
        write_atomically(self._index, json.dumps({"version": INDEX_VERSION, "names": names}, indent=1).encode())
        stat = self._index.stat()
        self._signature = (stat.st_ino, stat.st_mtime_ns)

    def _drop_file(self, vector: RegisteredVector | None) -> None:
        if vector is not None and all(other.sha256 != vector.sha256 for other in self._vectors.values()):
            self._path(vector.sha256).unlink(missing_ok=True)
