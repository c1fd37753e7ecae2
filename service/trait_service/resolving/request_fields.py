"""The one judge of a request's fields: a request that means to be steered or monitored, and would not be, is refused.

vLLM's request models ignore fields that they do not know. Only names of request fields are judged, at the top level and
in the objects that carry further fields (`extra_body`, `vllm_xargs`, ...); contents such as messages, tools, metadata
and JSON schemas may hold any word.
"""

import difflib
from collections.abc import Collection, Mapping
from functools import lru_cache

from trait_core.errors import InvalidRequestError
from trait_core.schema import ActivationsRequest

from trait_service.engine.spec import EXTRA_ARGS_KEY, STEERING_FIELDS, reserved_key_message
from trait_service.errors import NotServedError
from trait_service.resolving.alias import split_alias

READ_BY: Mapping[str, Collection[str]] = {
    "/v1/chat/completions": ("steering", "monitor"),
    "/v1/completions": ("steering", "monitor"),
    "/v1/activations": tuple(ActivationsRequest.model_fields),
}
"""Path -> fields of ours that its route reads. Every other route would ignore them."""

FORMS = {
    "steering": '"steering": {"terms": [{"vector": "NAME", "coefficient": 3}]}',
    "monitor": '"monitor": {"vectors": ["NAME"]}',
}

CARRIERS = frozenset(
    {
        "extrabody",
        "extraargs",
        "vllmxargs",
        "samplingparams",
        "extraparams",
        "modelkwargs",
        "additionalkwargs",
        "kwargs",
    }
    | {"parameters", "params", "options", "nvext", "extra", "generationconfig", "generationkwargs"}
)
"""Objects of a body whose entries are meant as fields of the request, in small letters without signs between words.

Most are arguments of client libraries, or fields of other servers.
"""

CONTENTS = frozenset(
    {"messages", "prompt", "input", "inputs", "tools", "tool_choice", "functions", "metadata", "response_format"}
    | {"structured_outputs", "documents", "chat_template_kwargs", "mm_processor_kwargs", "logit_bias", "json"}
)
"""Entries of a carrier that hold contents: no name inside them is a field."""

OTHER_NAMES = frozenset({"control_vector", "control_vectors", "intervention", "interventions", "activation_addition"})
"""Names under which other programs take steering, beside those that hold "steer"."""

_LONGEST_MISSPELT = 40
_SIMILAR = 0.7


def check_request_fields(path: str, document: Mapping[str, object], served: Collection[str] = ()) -> None:
    """Refuse fields that ask for steering, monitoring or capture where the route would ignore them.

    Args:
        path: The route's path, without a root path.
        document: The body.
        served: Names of the served models and adapters.

    Raises:
        InvalidRequestError: Names the field, and the form that steers.
        NotServedError: The model is an alias and the route does not steer.
    """
    read = READ_BY.get(path, ())
    for name, value in document.items():
        if value is None or name in read:
            continue
        if _is_carrier(name):
            _check_carrier(name, value)
        elif meant := meant_by(name):
            raise InvalidRequestError(_unread(path, name, meant), param=name)
    model = document.get("model")
    if not read and isinstance(model, str) and served and _is_alias(model, served):
        raise NotServedError(
            f"this route does not steer: it cannot serve the model alias {model[:200]!r}. Use one of {_routes('steering')}",
            param="model",
        )


@lru_cache(maxsize=4096)
def meant_by(name: str) -> str | None:
    """The field of ours that a name is, or was meant to be; None if it has nothing to do with steering."""
    lower = name.lower()
    if lower in STEERING_FIELDS:
        return lower
    if "steer" in lower or lower in OTHER_NAMES:
        return "steering"
    if len(lower) > _LONGEST_MISSPELT:
        return None
    near = difflib.get_close_matches(lower, STEERING_FIELDS, n=1, cutoff=_SIMILAR)
    return near[0] if near else None


def _check_carrier(where: str, value: object) -> None:
    """Refuse one of our fields anywhere inside a carrier.

    Raises:
        InvalidRequestError: Names the field and its place.
    """
    if (
        isinstance(value, str) and value.lstrip().startswith(("{", "[")) and "steer" in value.lower()
    ):  # JSON inside JSON
        raise InvalidRequestError(_misplaced(where, "steering", "steering"), param=where)
    for name, inner in _entries(value):
        if name == EXTRA_ARGS_KEY:
            raise InvalidRequestError(reserved_key_message(where), param=where)
        if inner is None or name in CONTENTS:
            continue
        if meant := _asked_by(name):
            raise InvalidRequestError(_misplaced(where, name, meant), param=f"{where}.{name}"[:200])
        if isinstance(inner, dict | list):
            _check_carrier(f"{where}.{name}" if _is_carrier(name) else where, inner)


@lru_cache(maxsize=4096)
def _is_carrier(name: str) -> bool:
    return name.lower().replace("_", "").replace("-", "") in CARRIERS


def _entries(value: object) -> list[tuple[str, object]]:
    """Names and values of an object, or of the objects in a list."""
    if isinstance(value, list):
        return [entry for item in value for entry in _entries(item)]
    return list(value.items()) if isinstance(value, dict) else []


def _asked_by(name: str) -> str | None:
    """As `meant_by`, without names that are only similar: those of a carrier are for others to read."""
    exact = "steer" in name.lower() or name.lower() in (*STEERING_FIELDS, *OTHER_NAMES)
    return meant_by(name) if exact else None


def _is_alias(model: str, served: Collection[str]) -> bool:
    try:
        return bool(split_alias(model, served)[1])
    except InvalidRequestError:
        return True


def _unread(path: str, name: str, meant: str) -> str:
    if meant == "capture" and path in READ_BY:
        return f"unknown field {name[:80]!r}: `capture` is not supported; POST /v1/activations reads activations"
    if path not in READ_BY or meant not in READ_BY[path]:
        form = f", with {FORMS[meant]}" if meant in FORMS else ""
        return f"this route does not read {name[:80]!r}: it would be ignored. Use one of {_routes(meant)}{form}"
    return (
        f"unknown field {name[:80]!r}: it would be ignored; did you mean {meant!r}? Send {FORMS[meant]} at the top level "
        "of the JSON"
    )


def _misplaced(where: str, name: str, meant: str) -> str:
    message = f"{name[:80]!r} inside {where[:80]!r} would be ignored"
    if where.startswith("extra_body"):
        message += ": 'extra_body' is an argument of OpenAI's Python client, which puts its entries at the top level"
    if meant not in FORMS:
        return f"{message}. POST /v1/activations reads activations"
    return f"{message}. Send {FORMS[meant]} at the top level of the JSON"


def _routes(field: str) -> str:
    return ", ".join(path for path, fields in READ_BY.items() if field in fields) or "/v1/activations"
