"""The cache of a run's stages, from which a killed run continues: content-addressed, append-only.

    <out>/.stages/<trait>/replies.jsonl           generated replies, one per line
    <out>/.stages/<trait>/judgements.jsonl        a judge's scores of them
    <out>/.stages/<trait>/<digest>.activations    captured activations, one chunk of texts per file

A key is the digest of everything that the value depends on, including the model. The folder may be deleted at any time:
missing entries are made again.
"""

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import safetensors.numpy
from trait_client.http.activations import Activations
from trait_core.errors import ServiceError
from trait_core.model_identity import ANSWERING_FIELDS
from trait_core.schema import ServiceInfo
from trait_core.storage import write_atomically
from trait_core.vectors.file import METADATA_KEY

logger = logging.getLogger(__name__)

FOLDER = ".stages"


def model_identity(info: ServiceInfo) -> dict[str, str | None]:
    """The fields of a service's description that its answers depend on."""
    return info.model_dump(include={*ANSWERING_FIELDS, "weights_digest"})


class KeyedLines:
    """JSON objects by key, one per line, on disk as soon as they are put. Several threads may put at once.

    Args:
        path: The file; a line torn by a kill is skipped, and its value is missing. None keeps values in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._values: dict[str, dict[str, Any]] = {}
        if path is None or not path.is_file():
            return
        for line in path.read_bytes().split(b"\n"):
            try:
                entry = json.loads(line) if line.strip() else {}
                key, value = entry.get("key"), entry.get("value")
            except (ValueError, AttributeError):
                logger.warning("%s: skipped a torn line", path)
                continue
            if isinstance(key, str) and isinstance(value, dict):
                self._values[key] = value

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> dict[str, Any] | None:
        """The value of a key; None if it is not stored."""
        return self._values.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Store a value; it is on disk when this returns."""
        line = json.dumps({"key": key, "value": value}, ensure_ascii=True).encode() + b"\n"
        with self._mutex:
            if self._path is not None:
                _append(self._path, line)
            self._values[key] = value


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A line feed first, in case a kill tore the previous line; readers skip empty lines.
    with path.open("ab") as stream:
        stream.write(line if stream.tell() == 0 else b"\n" + line)
        stream.flush()
        os.fsync(stream.fileno())


class CaptureStore:
    """Captured activations by the digest of the request and of the model that answered it.

    Args:
        folder: Folder of the chunks; None keeps them in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._kept: dict[str, Activations] = {}

    def get(self, key: str) -> Activations | None:
        """A chunk; None if it is not stored, or cannot be read."""
        path = self._path(key)
        if path is None:
            return self._kept.get(key)
        if not path.is_file():
            return None
        try:
            return Activations.from_bytes(path.read_bytes())
        except ServiceError as error:
            logger.warning("cannot read %s, so its texts are captured again: %s", path, error)
            return None

    def put(self, key: str, activations: Activations) -> None:
        """Store a chunk."""
        path = self._path(key)
        if path is None:
            self._kept[key] = activations
        else:
            metadata = {METADATA_KEY: activations.metadata.model_dump_json()}
            write_atomically(path, safetensors.numpy.save(activations.tensors, metadata))

    def has(self, key: str) -> bool:
        """True if a chunk is stored; it may still be damaged."""
        path = self._path(key)
        return key in self._kept if path is None else path.is_file()

    def _path(self, key: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{key}.activations"


class StageStore:
    """The cache of one trait's stages.

    Args:
        folder: `<out>/.stages/<trait>`; None keeps everything in memory, until the end of the run.

    Attributes:
        replies: Generated replies.
        judgements: A judge's scores of them.
        activations: Captured activations.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.replies = KeyedLines(folder and folder / "replies.jsonl")
        self.judgements = KeyedLines(folder and folder / "judgements.jsonl")
        self.activations = CaptureStore(folder)
