"""Trees of vectors, one file a layer, as trait-interp writes them.

    .../{category}/{trait}/{variant}/vectors/{position}/{component}/{method}/layer{N}.pt

and `metadata.json` beside the layers or in a folder above them, up to `vectors`. `layer{N}` is the output of block N.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from trait_core.errors import DatasetError, InvalidRequestError, VectorFileError
from trait_core.positions import Positions
from trait_core.schema import RESID_POST, HookPoint
from trait_core.text_files import read_json

from trait_extraction.interchange.foreign_vectors import UNNUMBERED, ForeignVectors
from trait_extraction.interchange.sandbox import read_apart

VECTORS = "vectors"
RESIDUAL = "residual"
COMPONENTS: Mapping[str, HookPoint] = {
    RESIDUAL: RESID_POST,
    "attn_contribution": "attn_out",
    "attn_out": "attn_out",
    "mlp_contribution": "mlp_out",
    "mlp_out": "mlp_out",
}
"""The hook point of each component: a contribution is what is added to the stream."""
MAX_METADATA_BYTES = 1024 * 1024
FILES_AT_ONCE = 512
"""Files that one child process reads; it has a minute of CPU time, two seconds of which are torch's import."""

MAX_FACTS, MAX_FACT = 20, 4000
"""Number of fields of the JSON that are kept, and characters of each."""

_LAYER = re.compile(r"^layer_?(\d{1,4})\.pt$")
_POSITION = re.compile(r"^(prompt|response|all|turn)(?:_(.*))?$")
_INDICES = re.compile(r"^(-?\d+)?(_)?(-?\d+)?_?$")
_WORDS = {"": "[:]", "all": "[:]", "mean": "[:]", "_": "[:]", "__": "[:]", "first": "[0]", "last": "[-1]"}


@dataclass(frozen=True)
class VectorFolder:
    """The layers of one vector.

    Args:
        category: Names of the folders, as they are written, and so for `trait`, `variant`, `position`, `component`, `method`.
        files: Layer -> its file.
        metadata: Content of the JSON beside and above the files; the nearest file takes precedence.
        fault: Why it cannot be imported; None if nothing is known against it.
    """

    category: str
    trait: str
    variant: str
    position: str
    component: str
    method: str
    files: dict[int, Path]
    metadata: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None

    @property
    def hook_point(self) -> HookPoint:
        """The place in a block that its directions are for."""
        return COMPONENTS[self.component]

    @property
    def name(self) -> str:
        """Its place in the tree, for messages."""
        return f"{self.category}/{self.trait}/{self.variant}/{self.position}/{self.component}/{self.method}"

    @property
    def facts(self) -> dict[str, str]:
        """The names and the JSON as a vector file keeps them, as a note: what a field means is the other tool's to say."""
        texts = {
            str(key)[:80]: value if isinstance(value, str) else json.dumps(value)
            for key, value in self.metadata.items()
        }
        return {
            "place": self.name,
            **{key: text[:MAX_FACT] for key, text in list(texts.items())[:MAX_FACTS]},
        }

    @property
    def positions(self) -> str:
        """Positions that the vector was read from, as this project writes them; the written name if it cannot be read."""
        stated = self.metadata.get("position")
        for text in (stated, self.position):
            if isinstance(text, str) and (read := read_position(text)) is not None:
                return read
        return self.position[:64]


def find_vector_folders(root: Path) -> list[VectorFolder]:
    """Find every vector under a folder, in order of their places; none if the folder has another layout.

    Args:
        root: The tree or any folder in it; names of folders above it are taken from its path.
    """
    root = root.resolve()
    files: dict[Path, dict[int, Path]] = defaultdict(dict)
    faults: dict[Path, str] = {}
    for path in sorted(root.rglob("layer*.pt")):
        match, parts = _LAYER.match(path.name), path.parts
        if match is None or len(parts) < 9 or parts[-5] != VECTORS:
            continue
        layer = int(match[1])
        if not path.resolve().is_relative_to(root):
            faults[path.parent] = f"{path.name}: a link out of the folder is not followed"
        elif layer in files[path.parent]:
            faults[path.parent] = f"{files[path.parent][layer].name} and {path.name} are both layer {layer}"
        files[path.parent][layer] = path
    return [_described(folder, files[folder], faults.get(folder)) for folder in sorted(files)]


def _described(folder: Path, files: dict[int, Path], fault: str | None) -> VectorFolder:
    category, trait, variant, _, position, component, method = folder.parts[-7:]
    try:
        metadata = _metadata(folder)
    except VectorFileError as error:
        metadata, fault = {}, fault or str(error)
    fault = fault or _component_fault(component, str(metadata.get("component", component)))
    return VectorFolder(
        category, trait, variant, position, component, method, dict(sorted(files.items())), metadata, fault
    )


def _component_fault(component: str, stated: str) -> str | None:
    """Why vectors of a component cannot be imported; `stated` is the one that the JSON names."""
    known = f"those that can be imported are {', '.join(COMPONENTS)}"
    if component not in COMPONENTS:
        return f"component {component[:40]!r} has no hook point here: {known}"
    if stated != component:
        return f"metadata.json says component {stated[:40]!r}, and the folder is {component!r}: {known}"
    return None


def _metadata(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for above in [*list(folder.parents)[2::-1], folder]:  # from `vectors` down
        path = above / "metadata.json"
        if not path.is_file():
            continue
        if path.stat().st_size > MAX_METADATA_BYTES:
            raise VectorFileError(f"{path.name} has more than {MAX_METADATA_BYTES} bytes")
        try:
            _, content = read_json(path)
        except DatasetError as error:
            raise VectorFileError(f"{path.name} in {above.name} cannot be used: {error}") from error
        if not isinstance(content, dict):
            raise VectorFileError(f"{path.name} in {above.name} is not a JSON object")
        found |= content
    return found


def safe_name(text: str) -> str:
    """A text as a name of a vector, a method or a file: lower case letters, digits, `_`, `.` and `-`."""
    return re.sub(r"[^a-z0-9_.-]+", "_", text.lower()).lstrip("_.-")


def read_position(name: str) -> str | None:
    """Positions such as `response[:5]` from a folder's name; None if it cannot be read.

    A name may be the written form itself, or have `_` for what a path does not like: `response__5` is `response[:5]`,
    `response_5_` `response[5:]`, `response_2_5` `response[2:5]`, `prompt_-1` `prompt[-1]`, `response_all` `response[:]`.
    """
    for text in (unquote(name), _with_brackets(name)):
        try:
            return str(Positions.parse(text)) if text is not None else None
        except InvalidRequestError:
            continue
    return None


def _with_brackets(name: str) -> str | None:
    match = _POSITION.match(re.sub(r"[\[\]():.,=~+ ]", "_", unquote(name)))
    if match is None:
        return None
    part, rest = match[1], match[2] or ""
    if rest in _WORDS:
        return part + _WORDS[rest]
    indices = _INDICES.match(rest)
    if indices is None:
        return None
    start, colon, stop = (indices[i] or "" for i in (1, 2, 3))
    return f"{part}[{start}]" if not colon else f"{part}[{start}:{stop}]"


def read_vector_folders(folders: Sequence[VectorFolder]) -> Iterator[tuple[VectorFolder, ForeignVectors | str]]:
    """Read the vectors, many files in one child process.

    Yields:
        `(folder, its vectors by layer)`, or the reason why it cannot be read.
    """
    for group in _groups([folder for folder in folders if folder.fault is None]):
        try:
            read = _read(group)
        except VectorFileError:  # one of them, or all together: each has its own answer
            for folder in group:
                yield folder, _read_one(folder)
        else:
            yield from read


def _groups(folders: Sequence[VectorFolder]) -> Iterator[Sequence[VectorFolder]]:
    largest = max((len(folder.files) for folder in folders), default=1)
    size = max(1, FILES_AT_ONCE // largest)
    return (folders[i : i + size] for i in range(0, len(folders), size))


def _read_one(folder: VectorFolder) -> ForeignVectors | str:
    try:
        return _read([folder])[0][1]
    except VectorFileError as error:
        return str(error)


def _read(group: Sequence[VectorFolder]) -> list[tuple[VectorFolder, ForeignVectors]]:
    contents = iter(read_apart("torch", [path for folder in group for path in folder.files.values()]))
    return [(folder, _joined(folder, [next(contents) for _ in folder.files])) for folder in group]


def _joined(folder: VectorFolder, contents: Sequence[ForeignVectors]) -> ForeignVectors:
    vectors = {}
    for (layer, path), found in zip(folder.files.items(), contents, strict=True):
        if len(found.vectors) != 1 or not found.vectors.keys() <= {UNNUMBERED, layer}:
            raise VectorFileError(f"{path}: expected one tensor (d_model,), of layer {layer}")
        (vectors[layer],) = found.vectors.values()
    return ForeignVectors("vector folder", vectors, {}, "block")
