"""The public Python names, from their signatures and docstrings."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, Unpack, get_args, get_origin, get_type_hints

import trait_steering
from page_parts import document, split_docstring, table
from pydantic import BaseModel
from trait_client.http import chat_requests

KINDS = (
    ("Clients", ("TraitClient", "AsyncTraitClient", "AsyncTraitReplicas", "LocalEngine")),
    ("Requests", ("Steering", "SteeringTerm", "Gate", "InlineVector", "Monitor", "StreamLens", "Message", "Generation", "ActivationInput", "ActivationsRequest", "PatchPrompt", "PatchRequest")),
    ("Answers", ("ChatResult", "ChatDelta", "SteeringReport", "Activations", "PatchReport", "ServiceInfo", "VectorInfo")),
    ("Vectors", ("VectorFile", "inline_vector", "extract", "model_folder", "Positions")),
)  # fmt: skip
"""Heading -> names. Errors are those that end with `Error`; a name that is nowhere is an error of this page's."""

OPTIONS = ("ChatOptions", "StreamOptions", "CompletionOptions")
"""Keyword arguments of the clients' methods."""

SHARED_OPTIONS = ("CommonOptions", "StreamOptions")
"""Those describe what others inherit."""

RESULTS = ("cells_df", "trials_df", "tokens_df", "searches_df")
"""Functions of `trait_steering.results`."""

SECTIONS = {"Args": "Arguments", "Attributes": "Fields"}

_MODULE = re.compile(r"\b(?:[a-z_]+\.)+(?=[A-Za-z_])")
"""The modules before a name in a signature."""


def page() -> str:
    """Text of the page."""
    from trait_steering import results

    errors = [name for name in trait_steering.__all__ if name.endswith("Error")]
    told = {name for _, names in KINDS for name in names} | {*errors, "__version__"}
    missing = set(trait_steering.__all__) - told
    assert not missing, f"give these names a heading in docs/generate/python_names.py: {sorted(missing)}"
    parts = [
        (
            "`from trait_steering import ...` has these names. Importing the package loads neither torch nor vllm nor duckdb. What a name "
            "needs is in [howto-in-process.md](../howto-in-process.md); fields with types and limits are in [http.md](http.md)."
        ),
    ]
    for heading, names in KINDS:
        parts.append(f"## {heading}")
        parts += [_entry(name, getattr(trait_steering, name)) for name in names]
        if heading == "Clients":
            parts += [_options(name, getattr(chat_requests, name)) for name in OPTIONS]
    parts.append("## Data frames: `trait_steering.results`")
    parts += [_entry(name, getattr(results, name)) for name in RESULTS]
    parts.append("## Errors\n\nAll derive from `TraitError`.")
    parts += [_entry(name, getattr(trait_steering, name)) for name in errors]
    return document("Python", parts)


def _entry(name: str, found: Any) -> str:
    if not inspect.isclass(found):
        return f"### {name}\n\n{_signature(name, found)}\n\n{_prose(found)}"
    lines = [f"### {name}", *([] if _has_fields(found) or issubclass(found, Exception) else [_signature(name, found)])]
    lines.append(_prose(found))
    lines += [
        f"#### {name}.{member}\n\n{_signature(member, value)}\n\n{_prose(value)}" for member, value in _members(found)
    ]
    return "\n\n".join(line for line in lines if line)


def _has_fields(found: type) -> bool:
    return issubclass(found, BaseModel) or dataclasses.is_dataclass(found)


def _members(found: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Its own methods, and those that it inherits from a class of ours that is not public; in the order of the source."""
    public = {getattr(trait_steering, name) for name in trait_steering.__all__ if name != "__version__"} - {found}
    # The asynchronous client has the same methods: only what differs is shown.
    seen = (
        {name for name, _ in _members(trait_steering.TraitClient)}
        if found is trait_steering.AsyncTraitClient
        else set()
    )
    for owner in found.__mro__:
        if owner in public or not owner.__module__.startswith("trait_") or issubclass(owner, BaseModel):
            continue
        for name, value in vars(owner).items():
            function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
            if inspect.isfunction(function) and not name.startswith("_") and name not in seen and function.__doc__:
                seen.add(name)
                yield name, function


def _signature(name: str, found: Callable[..., Any]) -> str:
    signature = inspect.signature(found)
    kept = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
    before = "async " if inspect.iscoroutinefunction(found) else ""
    words = [_parameter(each) for each in kept]
    result = signature.return_annotation
    returned = "" if result in (inspect.Signature.empty, None) else f" -> {_words(inspect.formatannotation(result))}"
    first_named = next((i for i, each in enumerate(kept) if each.kind is inspect.Parameter.KEYWORD_ONLY), None)
    if first_named is not None and not any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in kept):
        words.insert(first_named, "*")
    text = f"{before}{name}({', '.join(words)}){returned}"
    if len(text) > 100:
        inside = "".join(f"    {word},\n" for word in words)
        text = f"{before}{name}(\n{inside}){returned}"
    return f"```text\n{text}\n```"


def _parameter(parameter: inspect.Parameter) -> str:
    if parameter.kind is inspect.Parameter.VAR_KEYWORD and get_origin(parameter.annotation) is Unpack:
        (options,) = get_args(parameter.annotation)
        return f"**{parameter.name}: {options.__name__}"
    return _words(str(parameter))


def _words(text: str) -> str:
    """An annotation without modules, and `X | None` in place of `Optional[X]`."""
    short = _MODULE.sub("", text).replace("NoneType", "None")
    return re.sub(r"Optional\[((?:[^\[\]]|\[[^\[\]]*\])*)\]", r"\1 | None", short)


def _options(name: str, options: Any) -> str:
    """The keyword arguments of requests, with those that it shares with others."""
    described: dict[str, str] = {}
    for owner in SHARED_OPTIONS:
        described |= split_docstring(getattr(chat_requests, owner).__doc__ or "")[1]
    described |= split_docstring(options.__doc__ or "")[1]
    hints = get_type_hints(options)
    rows = (
        (f"`{key}`", f"`{_words(inspect.formatannotation(hint))}`", described.get(key, ""))
        for key, hint in hints.items()
    )
    return f"### {name}\n\nKeyword arguments, all optional.\n\n{table(('argument', 'type', ''), rows)}"


def _prose(found: Any) -> str:
    """The docstring: its sections become lists."""
    text = inspect.cleandoc(found.__doc__ or "")
    lines: list[str] = []
    for line in text.splitlines():
        section = re.fullmatch(r"(Args|Attributes|Returns|Raises|Yields):", line)
        item = re.match(r" {4}(\*{0,2}\w+): (.*)", line)
        if section:
            lines.append(f"{SECTIONS.get(section.group(1), section.group(1))}:\n")
        elif item:
            lines.append(f"- `{item.group(1)}`: {item.group(2)}")
        elif line.startswith("        "):
            lines.append(f"  {line.strip()}")
        elif line.startswith("    ") and not line.strip().startswith((">>>", "from ", "import ")):
            lines.append(line.strip())
        else:
            lines.append(line)
    return "\n".join(lines)
