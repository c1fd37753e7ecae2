"""Files that survive a kill: atomic writes, identity by content, and the header of a safetensors file."""

import hashlib
import json
import os
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

from trait_core.schema import SHA256_PREFIX

MAX_HEADER_BYTES = 8 * 1024 * 1024
"""Maximum safetensors header of a vector file, ours or another tool's."""

Signature = tuple[int, int, int] | None
"""Inode, modification time in ns and size of a file; None if it cannot be found."""

_SAFETENSORS_HEADER_BYTES = 100_000_000  # the library's own limit


class HeaderError(ValueError):
    """The header of a safetensors file is incomplete or malformed."""


def sha256_of(data: bytes) -> str:
    """Identity of a vector file: `sha256:` and 64 hex digits."""
    return SHA256_PREFIX + hashlib.sha256(data).hexdigest()


def json_sha256(value: Any, *, ensure_ascii: bool = True) -> str:
    """64 hex digits: sha256 of a JSON value, written compactly with sorted keys and shortest exact numbers.

    Identities in databases, shards and vector files are such digests: the bytes must never change.

    Args:
        value: Anything that `json.dumps` takes, without NaN or infinity.
        ensure_ascii: False writes other characters as UTF-8 instead of escapes: another digest.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=ensure_ascii, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a temporary file, flush it to disk and rename it over the target: a kill leaves the old file or the new one.

    Raises:
        OSError: The file cannot be written; the error names `path`, not the temporary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)  # noqa: PTH105 - named like the system call that this relies on
            _flush_folder(path.parent)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _flush_folder(folder: Path) -> None:
    """Make a new name durable: the folder must reach the disk too. Windows opens no folders, and needs no such call."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def signature(path: Path) -> Signature:
    """Identify the state of a file without reading it."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def read_header(data: bytes, limit: int = _SAFETENSORS_HEADER_BYTES) -> dict[str, Any]:
    """Parse the JSON header of a safetensors file: tensor names and `__metadata__`.

    Args:
        data: The file, or its beginning if that holds the whole header.
        limit: Maximum length of the header in bytes.

    Raises:
        HeaderError: There is no whole header, it is not a JSON object, or it holds a name twice.
    """
    if len(data) < 8:
        raise HeaderError(f"not a safetensors file: {len(data)} bytes are too few")
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(limit, len(data) - 8):
        raise HeaderError(f"a safetensors header of {length} bytes does not fit (at most {limit})")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_without_duplicates)
    except HeaderError:
        raise
    except (ValueError, RecursionError) as error:
        raise HeaderError("the safetensors header is not JSON") from error
    if not isinstance(header, dict):
        raise HeaderError("the safetensors header is not a JSON object")
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise HeaderError("the safetensors header holds one name twice")
    return found
