"""Readers of the file formats; they run only in the child process of `sandbox`."""

import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from trait_core.errors import VectorFileError
from trait_core.storage import MAX_HEADER_BYTES, HeaderError, read_header
from trait_core.text_files import one_line

from trait_extraction.extra import INSTALL, is_installed
from trait_extraction.interchange.foreign_vectors import MAX_FILE_BYTES, MAX_VECTORS, ForeignVectors
from trait_extraction.interchange.layouts import HOW, number_all, vectors_in
from trait_extraction.interchange.numpy_pickles import STANDS_FOR, PickledArray, PickledNumber

MAX_GGUF_ENTRIES = 4096
MAX_PICKLE_BYTES = 64 * 1024 * 1024
"""Maximum size of a torch file's pickle, which holds numpy arrays whole."""
MAX_DEPTH = 8

_DAMAGED = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError)
"""Errors that torch and numpy raise for a damaged file."""

_CLASS = re.compile(r"GLOBAL ([\w.]+)")


def read_gguf(path: Path) -> ForeignVectors:
    """A control vector of llama.cpp or repeng: tensors `direction.N`, one dimension, F32 or F16."""
    try:
        from gguf import GGMLQuantizationType, GGUFReader  # noqa: PLC0415 - optional
    except ModuleNotFoundError as error:
        raise VectorFileError("GGUF files are read with the gguf library: pip install gguf") from error
    _check_gguf_header(path)
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        raise VectorFileError(f"not a complete GGUF file: {error}") from error
    if fields.get("general.architecture") != "controlvector":
        raise VectorFileError(
            f"a GGUF file of architecture {str(fields.get('general.architecture'))[:40]!r}, not a control vector"
        )
    named = []
    for tensor in reader.tensors:
        if not tensor.name.startswith("direction."):
            raise VectorFileError(f"unknown tensor {tensor.name[:80]!r}: a control vector holds direction.N only")
        if tensor.tensor_type not in (GGMLQuantizationType.F32, GGMLQuantizationType.F16) or len(tensor.shape) != 1:
            raise VectorFileError(
                f"{tensor.name[:80]} is {tensor.tensor_type.name} with {len(tensor.shape)} dimensions; a direction is F32 "
                "or F16 with one"
            )
        named.append((tensor.name, np.array(tensor.data, np.float32)))
    numbered, _ = number_all(named)
    if 0 in numbered:
        raise VectorFileError(
            "direction.0: llama.cpp counts directions from 1 and refuses this one; the file is damaged"
        )
    return ForeignVectors("GGUF control vector", numbered, {k: str(v)[:200] for k, v in sorted(fields.items())})


def read_torch(path: Path) -> ForeignVectors:
    """A file of `torch.save` with tensors or numpy arrays, in any layout of `layouts`."""
    _check_zip(path, "not a torch file, or truncated: torch.save writes a zip since version 1.6")
    if not is_installed("torch"):
        raise VectorFileError(f"torch files are read with torch: {INSTALL}")
    import torch  # noqa: PLC0415 - two seconds, in the child only

    try:
        with torch.serialization.safe_globals(STANDS_FOR):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = _CLASS.search(str(error))
        what = f"an object of {named[1][:80]}" if named else one_line(error, 160)
        raise VectorFileError(
            f"the pickle holds more than tensors, arrays, numbers and dicts ({what}), and is not run, since that may run any code. "
            f"Save the tensors alone: torch.save({{12: tensor}}, FILE). {HOW}"
        ) from error
    except _DAMAGED as error:
        raise VectorFileError(f"not a complete torch file: {one_line(error)}") from error
    kind = "torch dict" if isinstance(loaded, dict) else "torch tensor"
    return vectors_in(kind, _content("the tensor", loaded))


def read_numpy(path: Path) -> ForeignVectors:
    """A file of `np.save` or `np.savez`, in any layout of `layouts`."""
    packed = path.suffix.lower() == ".npz"
    if packed:
        _check_zip(path, "not an .npz file, or truncated: np.savez writes a zip")
    try:
        if not packed:
            return vectors_in("numpy array", np.load(path, mmap_mode="r", allow_pickle=False))
        with np.load(path, allow_pickle=False) as arrays:
            content = {name: arrays[name] for name in arrays.files}
    except (*_DAMAGED, OSError, SyntaxError, TokenError, zipfile.BadZipFile, zlib.error) as error:
        objects = "object" in str(error).lower() or "pickle" in str(error).lower()
        reason = (
            "it holds Python objects, which are not read, since that may run any code" if objects else one_line(error)
        )
        raise VectorFileError(f"not a complete file of plain numpy arrays: {reason}. {HOW}") from error
    return vectors_in("numpy arrays", content)


def read_safetensors(path: Path) -> ForeignVectors:
    """Plain safetensors, in any layout of `layouts`."""
    import safetensors.torch  # noqa: PLC0415 - numpy has no bfloat16

    metadata = _check_safetensors_header(path)
    if "trait" in metadata:
        raise VectorFileError("is a vector file of trait-steering already: register it with `trait-client vectors put`")
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise VectorFileError(f"not a complete safetensors file: {error}") from error
    found = vectors_in("safetensors", _content("the file", tensors))
    return replace(found, facts={str(k)[:80]: str(v)[:200] for k, v in metadata.items()} | found.facts)


READERS: dict[str, Callable[[Path], ForeignVectors]] = {
    "gguf": read_gguf,
    "torch": read_torch,
    "numpy": read_numpy,
    "safetensors": read_safetensors,
}


# ---------------------------------------------------------------------------------------------------- headers


def _check_gguf_header(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or head[:4] != b"GGUF":
        raise VectorFileError("not a GGUF file: it does not begin with GGUF and its counts")
    n_tensors, n_entries = struct.unpack("<QQ", head[8:])
    if n_tensors > MAX_VECTORS or n_entries > MAX_GGUF_ENTRIES:
        raise VectorFileError(
            f"the header announces {n_tensors} tensors and {n_entries} entries (at most {MAX_VECTORS} and "
            f"{MAX_GGUF_ENTRIES})"
        )


def _check_zip(path: Path, otherwise: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise VectorFileError(otherwise) from error
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise VectorFileError("the zip holds two entries with the same name")
    if bad := [name for name in names if name.startswith("/") or "\\" in name or ".." in name.split("/")]:
        raise VectorFileError(f"the zip holds an entry with a path outside it: {bad[0][:80]!r}")
    if (total := sum(entry.file_size for entry in entries)) > MAX_FILE_BYTES:
        raise VectorFileError(f"unpacks to {total} bytes (at most {MAX_FILE_BYTES})")
    pickles = [entry.file_size for entry in entries if entry.filename.endswith(".pkl")]
    if max(pickles, default=0) > MAX_PICKLE_BYTES:
        raise VectorFileError(f"its pickle has {max(pickles)} bytes (at most {MAX_PICKLE_BYTES})")


def _check_safetensors_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        data = file.read(8 + MAX_HEADER_BYTES)
    try:
        metadata = read_header(data, MAX_HEADER_BYTES).get("__metadata__", {})
    except HeaderError as error:
        raise VectorFileError(str(error)) from error
    return metadata if isinstance(metadata, dict) else {}


# ---------------------------------------------------------------------------------------------------- tensors


def _content(name: object, value: object, depth: int = 0) -> Any:
    """Nested dicts and lists with every tensor as a numpy array; what is neither stays as it is."""
    if depth > MAX_DEPTH:
        raise VectorFileError(f"{str(name)[:80]!r}: more than {MAX_DEPTH} dicts and lists in each other. {HOW}")
    if isinstance(value, dict):
        return {key: _content(key, one, depth + 1) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_content(f"{name}, entry {i}", one, depth + 1) for i, one in enumerate(value[: MAX_VECTORS + 1])]
    if isinstance(value, PickledArray):
        return value.array()
    if isinstance(value, PickledNumber):
        return value.number()
    return _array(name, value)


def _array(name: object, value: object) -> Any:
    """A tensor as an array of its shape: float32, or as it is if it holds no real numbers; anything else unchanged.

    The shape is checked first, since a view may claim more values than the file holds.
    """
    import torch  # noqa: PLC0415

    if not isinstance(value, torch.Tensor):
        return value
    if value.layout != torch.strided or value.is_quantized or value.is_complex():
        raise VectorFileError(f"{str(name)[:80]!r} is {value.dtype} ({value.layout}); a direction is dense and real")
    if value.numel() * 4 > MAX_FILE_BYTES:
        raise VectorFileError(f"{str(name)[:80]!r} claims the shape {list(value.shape)}, more than a file may hold")
    dense = value.detach().cpu()
    return (dense.to(torch.float32) if dense.dtype.is_floating_point else dense).contiguous().numpy()
