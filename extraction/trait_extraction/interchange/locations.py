"""Locations of other tools' vectors: a file, a folder in trait-interp's layout, or the Hugging Face Hub."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from trait_core.errors import InvalidRequestError, VectorFileError
from trait_core.text_files import one_line

from trait_extraction.interchange.foreign_vectors import UNNUMBERED, ForeignVectors
from trait_extraction.interchange.layouts import HOW
from trait_extraction.interchange.sandbox import read_apart

KINDS = {
    ".gguf": "gguf",
    ".pt": "torch",
    ".pth": "torch",
    ".bin": "torch",
    ".safetensors": "safetensors",
    ".npy": "numpy",
    ".npz": "numpy",
}
MAX_JSON_BYTES = 1024 * 1024

_LAYER_FILE = re.compile(r"^(?P<method>[A-Za-z0-9_.-]+)_layer(?P<layer>\d{1,4})\.pt$")
_HUB = re.compile(r"^hf://(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w.-]+)(?:/(?P<path>[\w./-]+))?$")


def read_location(source: str, method: str | None = None) -> ForeignVectors:
    """Read a file, a folder or a repository.

    Args:
        source: A path, or `hf://org/repo@revision[/path]`.
        method: Method whose files `{method}_layer{N}.pt` are read from a folder; None if it holds only one.

    Raises:
        InvalidRequestError: The source does not exist or is of an unknown kind, or the folder holds several methods.
        VectorFileError: A file cannot be read; nothing is loaded.
    """
    if source.startswith("hf:"):
        return _read_hub(source, method)
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, method)
    if not path.is_file():
        raise InvalidRequestError(f"{path}: no such file or folder", param="source")
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise InvalidRequestError(f"{path}: unknown kind of file: known are {', '.join(KINDS)}. {HOW}", param="source")
    return read_apart(kind, [path])[0]


# ---------------------------------------------------------------------------------------------------- folders


def _read_folder(folder: Path, method: str | None) -> ForeignVectors:
    """`{method}_layer{N}.pt`, each a tensor `(d,)`, with `{method}_layer{N}_metadata.json` or `.json` beside it."""
    matches = [(match, path) for path in sorted(folder.iterdir()) if (match := _LAYER_FILE.match(path.name))]
    methods = sorted({match["method"] for match, _ in matches})
    if not methods:
        raise VectorFileError(f"{folder}: no files <method>_layer<N>.pt in it")
    if method is None and len(methods) > 1:
        raise InvalidRequestError(f"{folder} holds {', '.join(methods)}: choose one, --method NAME", param="method")
    chosen = methods[0] if method is None else method
    if chosen not in methods:
        raise InvalidRequestError(f"{folder} has no method {chosen!r}: it holds {', '.join(methods)}", param="method")
    files: dict[int, Path] = {}
    for match, path in matches:
        if match["method"] != chosen:
            continue
        layer = int(match["layer"])
        if layer in files:
            raise VectorFileError(f"{folder}: {files[layer].name} and {path.name} are both layer {layer}")
        if not path.resolve().is_relative_to(folder.resolve()):
            raise VectorFileError(f"{path}: a link out of its folder is not followed")
        files[layer] = path
    facts = _common_facts({layer: _metadata(path, chosen, layer) for layer, path in files.items()})
    vectors = {}
    for (layer, path), found in zip(files.items(), read_apart("torch", list(files.values())), strict=True):
        if set(found.vectors) != {UNNUMBERED}:
            raise VectorFileError(f"{path}: expected one tensor (d_model,) per file")
        vectors[layer] = found.vectors[UNNUMBERED]
    return ForeignVectors("folder of layers", dict(sorted(vectors.items())), {"method": chosen, **facts})


def _metadata(path: Path, method: str, layer: int) -> dict[str, Any]:
    """The JSON beside a file. A method, layer or component that contradicts the file is an error."""
    beside = next(
        (p for p in (path.with_name(f"{path.stem}_metadata.json"), path.with_suffix(".json")) if p.is_file()), None
    )
    if beside is None:
        return {}
    if beside.stat().st_size > MAX_JSON_BYTES or not beside.resolve().is_relative_to(path.parent.resolve()):
        raise VectorFileError(f"{beside}: more than {MAX_JSON_BYTES} bytes, or a link out of its folder")
    try:
        content = json.loads(beside.read_bytes())
    except (ValueError, RecursionError) as error:
        raise VectorFileError(f"{beside}: not JSON") from error
    if not isinstance(content, dict):
        raise VectorFileError(f"{beside}: not a JSON object")
    for key, expected in {"layer": layer, "method": method, "component": "residual"}.items():
        if content.get(key, expected) != expected:
            raise VectorFileError(f"{beside}: {key} is {str(content[key])[:40]!r}, and the file is {expected!r}")
    return content


def _common_facts(described: dict[int, dict[str, Any]]) -> dict[str, str]:
    """Trait, model and position, on which the JSON of all layers must agree."""
    facts = {}
    for key in ("trait", "model", "position"):
        values = {str(content[key])[:200] for content in described.values() if key in content}
        if len(values) > 1:
            raise VectorFileError(f"the layers' {key} differ: {', '.join(sorted(values))}")
        if values:
            facts[key] = values.pop()
    return facts


# ---------------------------------------------------------------------------------------------------- the hub


def _read_hub(source: str, method: str | None) -> ForeignVectors:
    """A repository at a revision, downloaded into a folder that is removed again.

    Not tested against a real hub yet.
    """
    match = _HUB.match(source)
    if match is None or ".." in source:
        raise InvalidRequestError(
            f"{source[:200]!r} is not understood: hf://org/repo@revision, or hf://org/repo@revision/file/or/folder",
            param="source",
        )
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415 - optional, slow
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise VectorFileError("hf:// is read with huggingface_hub: pip install huggingface_hub") from error
    inside = match["path"] or ""
    patterns = [inside, f"{inside.rstrip('/')}/*"] if inside else ["*"]
    allowed = [f"{p}" for p in patterns if Path(p).suffix in KINDS] or [
        f"{inside.rstrip('/') + '/' if inside else ''}*{suffix}" for suffix in (*KINDS, ".json")
    ]
    with tempfile.TemporaryDirectory(prefix="trait-hub-") as folder:
        try:
            snapshot_download(match["repo"], revision=match["revision"], allow_patterns=allowed, local_dir=folder)
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
            raise VectorFileError(f"{source}: cannot be downloaded: {one_line(error)}") from error
        found = Path(folder) / inside
        if not found.exists():
            raise VectorFileError(f"{source}: holds no vectors there")
        files = [p for p in found.iterdir() if p.suffix in KINDS] if found.is_dir() else [found]
        return read_location(str(files[0] if len(files) == 1 else found), method)
