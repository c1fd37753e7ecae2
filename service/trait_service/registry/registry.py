"""Registered steering vectors: a content store, and a manifest of the names that point to its files.

    <root>/<model>/<sha256>.safetensors             <model>: digests of its config and its weights
    <root>/<model>/manifest.json

The file is written first, the manifest after it, both atomically: a kill leaves a registry that loads, and a name that
points to the old file or the new one. Several services may share a folder. Each looks at the manifest before it
answers, and loads a file when it is first asked for.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trait_core.errors import InvalidRequestError, TraitError, UnknownVectorError, VectorFileError
from trait_core.os_errors import sentence_of
from trait_core.schema import SHA256_PREFIX, VectorInfo, VectorVersion, is_name
from trait_core.storage import sha256_of
from trait_core.vectors.controls import controls_of, is_control
from trait_core.vectors.file import VectorFile

from trait_service.registry.content_store import ContentStore
from trait_service.registry.manifest import Manifest, ManifestFile
from trait_service.registry.uses import VectorUses

logger = logging.getLogger(__name__)


class VectorInUseError(TraitError):
    """A vector cannot be deleted while requests use it (409)."""


class StorageError(TraitError):
    """The registry's folder cannot be written, a full disk among the reasons (507)."""


@dataclass(frozen=True)
class Content:
    """A vector file, loaded."""

    sha256: str
    file: VectorFile

    @cached_property
    def directions(self) -> dict[int, tuple[str, bytes]]:
        """Layer -> (sha256 hex, float32 little-endian bytes) of its unit direction: its identity in the bank."""
        raw = {layer: direction.astype("<f4").tobytes() for layer, direction in self.file.directions.items()}
        return {layer: (sha256_of(data).removeprefix(SHA256_PREFIX), data) for layer, data in raw.items()}


@dataclass(frozen=True)
class RegisteredVector:
    """A vector file under a name.

    Args:
        name: Name that points to the file, or pointed to it earlier.
        content: The file.
        version: Which of the name's versions the file is.
        versions: All that the name still has, the oldest first.
    """

    name: str
    content: Content
    version: int
    versions: tuple[VectorVersion, ...]

    @property
    def sha256(self) -> str:
        """Identity of the file."""
        return self.content.sha256

    @property
    def file(self) -> VectorFile:
        """Directions and metadata."""
        return self.content.file

    @property
    def directions(self) -> dict[int, tuple[str, bytes]]:
        """As `Content.directions`."""
        return self.content.directions

    @property
    def chosen_layer(self) -> int:
        """The layer of a request that names none."""
        return self.file.metadata.chosen_layer

    def info(self) -> VectorInfo:
        """The registry's answer for this vector."""
        return VectorInfo(
            name=self.name,
            sha256=self.sha256,
            version=self.version,
            versions=list(self.versions),
            metadata=self.file.metadata,
        )


class VectorRegistry:
    """Names -> vector files.

    Args:
        folder: The folder of one model; created when the first vector is registered.
        max_vectors: Largest number of names.
        max_bytes: Largest size of one file.
        max_versions: Versions kept for each name; older ones are deleted.
        uses: Files that running requests use.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_vectors: int = 1024,
        max_bytes: int = 64 * 2**20,
        max_versions: int = 10,
        uses: VectorUses | None = None,
    ) -> None:
        self._store = ContentStore(folder)
        self._file = ManifestFile(folder)
        self._max_vectors = max_vectors
        self._max_bytes = max_bytes
        self._max_versions = max_versions
        self._uses = uses or VectorUses()
        self._changing = threading.Lock()
        self._mutex = (
            threading.Lock()
        )  # of the fields below; not held during a change, so that requests never wait for a disk
        self._signature = self._file.signature()
        self._manifest = self._file.read()
        self._loaded: dict[str, Content] = {}

    @property
    def revision(self) -> int:
        """Revision of the manifest; services that report the same revision know the same names."""
        return self._current().revision

    def all(self, *, controls: bool = False) -> list[RegisteredVector]:
        """Every registered vector, by name; one whose file is damaged or gone is left out, with an error in the log.

        Args:
            controls: Also the random directions that sweeps register.
        """
        found = []
        for name, versions in sorted(self._current().names.items()):
            if is_control(name) and not controls:
                continue
            try:
                found.append(self._vector(name, versions[-1], versions))
            except VectorFileError as error:
                logger.error("vector %s is left out: %s", name, error)  # noqa: TRY400 - the file, not this code
        return found

    def get(self, reference: str) -> RegisteredVector:
        """A vector by name, or by `sha256:...` of any version that a name still has.

        Raises:
            UnknownVectorError: None is registered, or its file is damaged; the message names those that are.
        """
        manifest = self._current()
        found = manifest.find(reference)
        if found is None:
            known = ", ".join(sorted(name for name in manifest.names if not is_control(name))[:20]) or "none"
            raise UnknownVectorError(
                f"no vector {reference[:80]!r} is registered (registered: {known})", param="vector"
            )
        name, version = found
        try:
            return self._vector(name, version, manifest.names[name])
        except VectorFileError as error:
            # An unknown vector is an error everywhere, never an unsteered answer.
            raise UnknownVectorError(
                f"vector {reference[:80]!r} cannot be used: {error}. Register it again", param="vector"
            ) from error

    def put(self, name: str, data: bytes) -> RegisteredVector:
        """Register a vector file under a name, as its newest version; the same file again changes nothing.

        Raises:
            InvalidRequestError: The name, the size or the number of vectors is outside its range.
            VectorFileError: The bytes are not a vector file.
            StorageError: They cannot be stored.
        """
        _check_name(name)
        if len(data) > self._max_bytes:
            raise InvalidRequestError(
                f"the vector file has {len(data)} bytes; at most {self._max_bytes} (--max-vector-bytes)"
            )
        VectorFile.from_bytes(data)
        with self._change() as manifest:
            self._check_room(manifest, name)
            self._point(manifest, name, self._store.add(data))
        return self._newest(manifest, name)

    def point(self, name: str, reference: str) -> RegisteredVector:
        """Point a name to a registered file: an alias, or a return to an earlier version by `sha256:...`.

        Raises:
            InvalidRequestError: The name or the number of vectors is outside its range.
            UnknownVectorError: Nothing of that name or hash is registered.
            StorageError: The change cannot be stored.
        """
        _check_name(name)
        sha256 = self.get(reference).sha256
        with self._change() as manifest:
            if sha256 not in manifest.hashes():
                raise UnknownVectorError(f"vector {reference[:80]!r} has just been deleted", param="vector")
            self._check_room(manifest, name)
            self._point(manifest, name, sha256)
        return self._newest(manifest, name)

    def delete(self, name: str, *, even_if_used: bool = False) -> None:
        """Delete a name with its versions and their controls, and files that no other name has.

        Raises:
            UnknownVectorError: The name is not registered.
            VectorInUseError: Running requests use a file that would be forgotten.
            StorageError: The change cannot be stored.
        """
        if name not in self._current().names:
            self.get(name)  # names those that are registered
            raise UnknownVectorError(f"{name[:80]!r} is not a vector name: delete takes names only", param="vector")
        with self._change() as manifest:
            before = manifest.hashes()
            manifest.names.pop(name, None)
            _drop_controls(manifest, before)
            used = self._uses.requests(before - manifest.hashes())
            if used and not even_if_used:
                raise VectorInUseError(
                    f"vector {name!r} is used by {used} running request(s): delete it when they are done, or add "
                    "?even_if_used=true; they keep what they use"
                )

    def read(self, vector: RegisteredVector) -> bytes:
        """The file's bytes, as they were put.

        Raises:
            VectorFileError: The file is damaged or gone.
        """
        return self._store.read(vector.sha256)

    # ------------------------------------------------------------------------------------------------------- inside

    @contextmanager
    def _change(self) -> Iterator[Manifest]:
        """The manifest, for one change by one process; unused files are deleted once it is written."""
        try:
            with self._changing, self._file.change(then=self._written) as manifest:
                yield manifest
        except OSError as error:
            raise StorageError(
                f"the folder of the vectors cannot be written: {sentence_of(error, place='')}"
            ) from error

    def _written(self, manifest: Manifest) -> None:
        with self._mutex:
            self._signature, self._manifest = self._file.signature(), manifest
        self._store.keep_only(manifest.hashes() | self._uses.hashes())

    def _point(self, manifest: Manifest, name: str, sha256: str) -> None:
        before = manifest.hashes()
        manifest.point(name, sha256, self._max_versions)
        _drop_controls(manifest, before)

    def _newest(self, manifest: Manifest, name: str) -> RegisteredVector:
        versions = manifest.names[name]
        return self._vector(name, versions[-1], versions)

    def _vector(self, name: str, version: VectorVersion, versions: list[VectorVersion]) -> RegisteredVector:
        with self._mutex:
            content = self._loaded.get(version.sha256)
        if content is None:
            content = Content(version.sha256, VectorFile.from_bytes(self._store.read(version.sha256)))
            with self._mutex:
                content = self._loaded.setdefault(version.sha256, content)
        return RegisteredVector(name, content, version.version, tuple(versions))

    def _check_room(self, manifest: Manifest, name: str) -> None:
        if name not in manifest.names and len(manifest.names) >= self._max_vectors:
            raise InvalidRequestError(
                f"{len(manifest.names)} vectors are registered, at most {self._max_vectors} (--max-vectors): delete one first"
            )

    def _current(self) -> Manifest:
        """The manifest, read again if it has changed on disk; an unreadable one changes nothing."""
        with self._mutex:
            signature = self._file.signature()
            if signature != self._signature:
                self._signature = signature
                try:
                    self._manifest = self._file.read()
                except VectorFileError as error:
                    logger.error("the names read last stay in force: %s", error)  # noqa: TRY400
                wanted = self._manifest.hashes()
                self._loaded = {sha256: content for sha256, content in self._loaded.items() if sha256 in wanted}
            return self._manifest


def _drop_controls(manifest: Manifest, before: set[str]) -> None:
    """Forget the controls of vector files that no name has any more."""
    for name in controls_of(before - manifest.hashes(), manifest.names):
        del manifest.names[name]


def _check_name(name: str) -> None:
    if not is_name(name):
        raise InvalidRequestError(
            f"{name[:80]!r} is not a name: 1 to 64 of a-z, 0-9, '_', '.', '-', beginning with a letter or a digit",
            param="name",
        )
