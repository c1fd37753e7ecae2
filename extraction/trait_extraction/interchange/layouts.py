"""The array layouts of other tools: the one place that knows their names and shapes.

| content | read as |
|---|---|
| an array `(d,)`, `(1, d)` or `(d, 1)` | one vector without a number |
| an array `(n, d)`, `(n, 1, d)` or `(1, n, d)`; a list of `n` vectors | row i is number i |
| a dict of layers: `12`, `"12"`, `layer_12`, `layers.12`, `direction.12` | the number in the name |
| `blocks.12.hook_resid_post`, `model.layers.12`, `transformer.h.12`, `resid_post.12` | output of block 12 |
| `blocks.12.hook_resid_pre`, `hidden_states.12` | hidden state 12 |
| a dict with one entry that is one of these, beside strings and numbers | that entry; `layer` gives the number of a vector without one |

Everything else gets a sentence that says what the file holds, and how to bring it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from trait_core.errors import VectorFileError

from trait_extraction.interchange.foreign_vectors import MAX_VECTORS, UNNUMBERED, ForeignVectors, Numbering

HOW = "To bring it, make a vector file of its arrays with VectorFile.from_arrays (docs/howto-vectors.md, any array)"
NAMES = "names of layers are 12, layer_12, layers.12, direction.12, blocks.12.hook_resid_post, model.layers.12, resid_post.12"

MAX_FACTS = 20
MAX_DEPTH = 4
MAX_SHOWN = 4

_TOKEN = re.compile(r"[a-z]+|\d+")
_NEUTRAL = frozenset(
    ("l", "layer", "layers", "direction", "directions", "vector", "vectors", "steering", "resid", "residual", "stream")
)
_BLOCK = frozenset(
    (
        "block",
        "blocks",
        "h",
        "hook",
        "post",
        "output",
        "model",
        "module",
        "base",
        "transformer",
        "decoder",
        "gpt",
        "neox",
    )
)
_HIDDEN_STATE = frozenset(("pre", "input", "hidden", "state", "states"))
_OTHER = frozenset(("language", "backbone", "text"))
"""Words of a module's path that state nothing by themselves."""
_PARTS = frozenset(
    (
        "attn",
        "attention",
        "mlp",
        "mid",
        "ffn",
        "self",
        "norm",
        "ln",
        "layernorm",
        "proj",
        "key",
        "query",
        "value",
        "gate",
    )
)
_POSITIONAL = re.compile(r"^arr_\d+$")
"""Name that `np.savez` gives to an array without one."""

Content = Any
"""Nested dicts and lists of numpy arrays, strings and numbers."""


def vectors_in(kind: str, content: Content) -> ForeignVectors:
    """Find the vectors in a file's content.

    Args:
        kind: Kind of file, for messages.
        content: Nested dicts and lists of arrays of any real type.

    Raises:
        VectorFileError: The layout is not known, or an array cannot be a direction; the message says what the file holds.
    """
    try:
        return _vectors_in(kind, _with_arrays(content))
    except VectorFileError as error:
        raise VectorFileError(f"{error}. The file holds {describe(content)}. {HOW}") from error


def _vectors_in(kind: str, content: Content) -> ForeignVectors:
    facts: dict[str, str] = {}
    found, layer = _unwrap(content, facts)
    if isinstance(found, Mapping):
        vectors, numbering = number_all((name, _vector(name, value)) for name, value in _entries(found).items())
        return ForeignVectors(kind, vectors, facts, numbering)
    rows = _rows(found)
    if layer is not None and set(rows) == {UNNUMBERED}:
        rows = {layer: rows[UNNUMBERED]}
    return ForeignVectors(kind, rows, facts)


def number_all(
    named: Iterable[tuple[object, npt.NDArray[np.float32]]],
) -> tuple[dict[int, npt.NDArray[np.float32]], Numbering | None]:
    """Number -> vector, `(d,)` float32 each, as given, and the meaning of the numbers if the names say it.

    Raises:
        VectorFileError: A name without a number, two with the same, or names that contradict each other; too many.
    """
    numbered: dict[int, npt.NDArray[np.float32]] = {}
    meant: dict[Numbering, object] = {}
    for name, vector in named:
        number, numbering = number_of(name)
        if number in numbered:
            raise VectorFileError(f"two vectors have the number {number}: the second is {str(name)[:80]!r}")
        numbered[number] = vector
        if numbering is not None:
            meant.setdefault(numbering, name)
    if not 0 < len(numbered) <= MAX_VECTORS:
        raise VectorFileError(f"{len(numbered)} vectors: a file must hold 1 to {MAX_VECTORS}")
    if len(meant) > 1:
        names = " and ".join(repr(str(name)[:80]) for name in meant.values())
        raise VectorFileError(f"{names} count layers in two ways: keep the names of one kind")
    return numbered, next(iter(meant), None)


def number_of(name: object) -> tuple[int, Numbering | None]:
    """The number in a tensor's name, and its meaning if the name says it.

    Raises:
        VectorFileError: The name has no number, or names a part of a block.
    """
    if isinstance(name, (int, np.integer)) and not isinstance(name, bool):
        name = int(name)
        if 0 <= name < 10_000:
            return name, None
    shown = repr(str(name)[:80])
    tokens = _TOKEN.findall(name.lower()) if isinstance(name, str) else []
    numbers = [token for token in tokens if token.isdigit()]
    words = {token for token in tokens if not token.isdigit()}
    if len(numbers) == 1 and len(numbers[0]) <= 4 and isinstance(name, str) and not re.search(r"[^\w./\- ]|\.\.", name):
        if parts := sorted(words & _PARTS):
            raise VectorFileError(
                f"{shown} is a part of a block ({', '.join(parts)}): only the output of a whole decoder block can be steered"
            )
        if not words - _NEUTRAL - _BLOCK - _HIDDEN_STATE - _OTHER:
            return int(numbers[0]), _meaning(words)
    raise VectorFileError(f"{shown} is not a layer: {NAMES}")


def _meaning(words: set[str]) -> Numbering | None:
    """The numbering that the words of a name state; module paths and `resid_post` are outputs of blocks."""
    if words & {"pre", "input", "hidden"}:
        return "hidden-state"
    return "block" if words & _BLOCK else None


def describe(content: Content) -> str:
    """The content of a file in a few words: types, names and shapes."""
    if isinstance(content, np.ndarray):
        return f"{content.dtype}{list(content.shape)}"
    if isinstance(content, Mapping):
        shown = [f"{str(name)[:60]!r}: {describe_leaf(value)}" for name, value in list(content.items())[:MAX_SHOWN]]
        return f"a dict of {len(content)} ({', '.join(shown)}{', ...' if len(content) > MAX_SHOWN else ''})"
    if isinstance(content, (list, tuple)):
        shown = [describe_leaf(value) for value in content[:MAX_SHOWN]]
        return f"a list of {len(content)} ({', '.join(shown)}{', ...' if len(content) > MAX_SHOWN else ''})"
    return describe_leaf(content)


def describe_leaf(value: Content) -> str:
    """A value in one word, or an array with its shape."""
    if isinstance(value, np.ndarray):
        return describe(value)
    if isinstance(value, (Mapping, list, tuple)):
        return f"a {'dict' if isinstance(value, Mapping) else 'list'} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


# ---------------------------------------------------------------------------------------------------- dicts


def _unwrap(content: Content, facts: dict[str, str]) -> tuple[Content, int | None]:
    """The layers or the array inside the dicts around it, and the layer that an entry `layer` names."""
    layer: int | None = None
    for _ in range(MAX_DEPTH):
        if isinstance(content, (list, tuple)) and len(content) == 1:
            content = content[0]
            continue
        if not isinstance(content, Mapping):
            return content, layer
        if "layer_activations" in content:
            _check_layer_type(content)
        entries = _entries(content)
        if len(entries) > 1 and all(isinstance(name, str) and _POSITIONAL.match(name) for name in entries):
            return [entries[name] for name in sorted(entries, key=lambda name: int(name[4:]))], layer
        _add_facts(content, facts)
        layer = _layer_fact(content, layer)
        if len(entries) != 1 or not _is_wrapper(next(iter(entries))):
            return content, layer
        (content,) = entries.values()
    raise VectorFileError("dicts in dicts in dicts")


def _is_wrapper(name: object) -> bool:
    """True if a dict's only entry is what it is about, rather than the vector of one layer: its name has no number."""
    shown = str(name)
    return _POSITIONAL.match(shown) is not None or not any(c.isdigit() for c in shown)


def _with_arrays(content: Content) -> Content:
    """The content with every list of numbers as an array."""
    if isinstance(content, Mapping):
        return {name: _with_arrays(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        if content and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in content):
            return np.array(content, np.float64)
        return [_with_arrays(value) for value in content]
    return content


def _entries(content: Mapping[Any, Content]) -> dict[Any, Content]:
    """The entries that are not plain facts."""
    entries = {
        name: value
        for name, value in content.items()
        if (isinstance(value, np.ndarray) and value.ndim > 0) or isinstance(value, (Mapping, list, tuple))
    }
    if not entries:
        raise VectorFileError("0 vectors")
    return entries


def _check_layer_type(content: Mapping[Any, Content]) -> None:
    """Refuse vectors of steering-vectors that are not for the output of a block."""
    layer_type = content.get("layer_type", "decoder_block")
    if layer_type != "decoder_block":
        raise VectorFileError(f"layer_type {str(layer_type)[:40]!r}: only the output of decoder blocks can be steered")


def _add_facts(content: Mapping[Any, Content], facts: dict[str, str]) -> None:
    for name, value in content.items():
        if isinstance(value, (str, int, float)) and len(facts) < MAX_FACTS:
            facts.setdefault(str(name)[:80], str(value)[:200])


def _layer_fact(content: Mapping[Any, Content], otherwise: int | None) -> int | None:
    for name in ("layer", "layer_idx", "layer_index", "layer_number"):
        value = content.get(name)
        if isinstance(value, np.ndarray) and value.size == 1 and np.issubdtype(value.dtype, np.integer):
            value = int(value.reshape(()))
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10_000:
            return value
    return otherwise


# ---------------------------------------------------------------------------------------------------- arrays


def _rows(content: Content) -> dict[int, npt.NDArray[np.float32]]:
    if isinstance(content, (list, tuple)):
        rows = {i: _vector(f"entry {i}", value) for i, value in enumerate(content) if value is not None}
        if not 0 < len(rows) <= MAX_VECTORS:
            raise VectorFileError(f"{len(rows)} vectors: a file must hold 1 to {MAX_VECTORS}")
        return rows
    if not isinstance(content, np.ndarray):
        raise VectorFileError("no array")
    array = _real("the array", content).squeeze()
    if array.ndim == 1:
        return {UNNUMBERED: array}
    if array.ndim != 2 or not 0 < len(array) <= MAX_VECTORS:
        raise VectorFileError(f"the shape {list(content.shape)}; expected (layers, d_model) or (d_model,)")
    return dict(enumerate(array))


def _vector(name: object, value: Content) -> npt.NDArray[np.float32]:
    shown = repr(str(name)[:80])
    if not isinstance(value, np.ndarray):
        raise VectorFileError(f"{shown} is {describe(value)}, not an array")
    array = _real(name, value).squeeze()
    if array.ndim != 1:
        raise VectorFileError(f"{shown} has the shape {list(value.shape)}; a direction has one dimension")
    return array


def _real(name: object, array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if array.dtype.kind != "f":
        raise VectorFileError(f"{str(name)[:80]!r} is {array.dtype}; a direction is dense and real (float16, 32 or 64)")
    return array.astype(np.float32)
