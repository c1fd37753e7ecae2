"""Readers of the file formats; they run only in the child process of `sandbox`."""

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from trait_core.errors import VectorFileError
from trait_core.storage import MAX_HEADER_BYTES, HeaderError, read_header
from trait_core.text_files import one_line

from trait_extraction.extra import INSTALL, is_installed
from trait_extraction.interchange.foreign_vectors import (
    MAX_FILE_BYTES,
    MAX_VECTORS,
    UNNUMBERED,
    ForeignVectors,
    number_all,
)

MAX_GGUF_ENTRIES = 4096


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
    numbered = number_all(named)
    if 0 in numbered:
        raise VectorFileError(
            "direction.0: llama.cpp counts directions from 1 and refuses this one; the file is damaged"
        )
    return ForeignVectors("GGUF control vector", numbered, {k: str(v)[:200] for k, v in sorted(fields.items())})


def read_torch(path: Path) -> ForeignVectors:
    """A file of `torch.save`: a tensor `(n, d)` or `(d,)`, a dict of layers, or a dict with `layer_activations`."""
    _check_torch_zip(path)
    if not is_installed("torch"):
        raise VectorFileError(f"torch files are read with torch: {INSTALL}")
    import torch  # noqa: PLC0415 - two seconds, in the child only

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise VectorFileError(
            "the pickle holds more than tensors, numbers and dicts, and is not run. A SteeringVector object: save "
            "{'layer_activations': v.layer_activations, 'layer_type': v.layer_type} instead "
            f"({one_line(error, 160)})"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise VectorFileError(f"not a complete torch file: {one_line(error)}") from error
    facts = {}
    if isinstance(loaded, dict) and "layer_activations" in loaded:
        layer_type = loaded.get("layer_type", "decoder_block")
        if layer_type != "decoder_block":
            raise VectorFileError(
                f"layer_type {str(layer_type)[:40]!r}: only the output of decoder blocks can be steered"
            )
        facts["layer_type"] = "decoder_block"
        loaded = loaded["layer_activations"]
    if isinstance(loaded, dict):
        return ForeignVectors("torch dict", number_all((k, _vector(k, v)) for k, v in loaded.items()), facts)
    return ForeignVectors("torch tensor", _rows(_array("the tensor", loaded)), facts)


def read_safetensors(path: Path) -> ForeignVectors:
    """Plain safetensors: one tensor per layer, or a single `(n, d)`."""
    import safetensors.torch  # noqa: PLC0415 - numpy has no bfloat16

    metadata = _check_safetensors_header(path)
    if "trait" in metadata:
        raise VectorFileError("is a vector file of trait-steering already: register it with `trait-client vectors put`")
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise VectorFileError(f"not a complete safetensors file: {error}") from error
    facts = {str(k)[:80]: str(v)[:200] for k, v in metadata.items()}
    if len(tensors) == 1:
        ((name, tensor),) = tensors.items()
        if tensor.ndim == 2:
            return ForeignVectors("safetensors", _rows(_array(name, tensor)), facts)
    return ForeignVectors("safetensors", number_all((k, _vector(k, v)) for k, v in tensors.items()), facts)


READERS: dict[str, Callable[[Path], ForeignVectors]] = {
    "gguf": read_gguf,
    "torch": read_torch,
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


def _check_torch_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise VectorFileError("not a torch file, or truncated: torch.save writes a zip since version 1.6") from error
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise VectorFileError("the zip holds two entries with the same name")
    if bad := [name for name in names if name.startswith("/") or "\\" in name or ".." in name.split("/")]:
        raise VectorFileError(f"the zip holds an entry with a path outside it: {bad[0][:80]!r}")
    if (total := sum(entry.file_size for entry in entries)) > MAX_FILE_BYTES:
        raise VectorFileError(f"unpacks to {total} bytes (at most {MAX_FILE_BYTES})")
    pickles = [entry.file_size for entry in entries if entry.filename.endswith(".pkl")]
    if max(pickles, default=0) > MAX_HEADER_BYTES:
        raise VectorFileError(f"its pickle has {max(pickles)} bytes (at most {MAX_HEADER_BYTES})")


def _check_safetensors_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        data = file.read(8 + MAX_HEADER_BYTES)
    try:
        metadata = read_header(data, MAX_HEADER_BYTES).get("__metadata__", {})
    except HeaderError as error:
        raise VectorFileError(str(error)) from error
    return metadata if isinstance(metadata, dict) else {}


# ---------------------------------------------------------------------------------------------------- tensors


def _vector(name: object, value: object) -> npt.NDArray[np.float32]:
    array = _array(name, value)
    if array.ndim != 1:
        raise VectorFileError(f"{str(name)[:80]!r} has the shape {list(array.shape)}; a direction has one dimension")
    return array


def _rows(array: npt.NDArray[np.float32]) -> dict[int, npt.NDArray[np.float32]]:
    if array.ndim == 1:
        return {UNNUMBERED: array}
    if array.ndim != 2 or not 0 < len(array) <= MAX_VECTORS:
        raise VectorFileError(f"the shape {list(array.shape)}; expected (layers, d_model) or (d_model,)")
    return dict(enumerate(array))


def _array(name: object, value: object) -> npt.NDArray[np.float32]:
    """A tensor as float32, same shape. The shape is checked first, since a view may claim more values than the file holds."""
    import torch  # noqa: PLC0415

    if not isinstance(value, torch.Tensor):
        raise VectorFileError(f"{str(name)[:80]!r} is a {type(value).__name__}, not a tensor")
    if value.layout != torch.strided or not value.dtype.is_floating_point:
        raise VectorFileError(f"{str(name)[:80]!r} is {value.dtype} ({value.layout}); a direction is dense and real")
    if value.numel() * 4 > MAX_FILE_BYTES:
        raise VectorFileError(f"{str(name)[:80]!r} claims the shape {list(value.shape)}, more than a file may hold")
    array: npt.NDArray[np.float32] = value.detach().to(torch.float32).contiguous().numpy()
    return array
