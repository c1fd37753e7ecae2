"""The routes, from the OpenAPI of the application as vLLM builds it; and the fields of their answers, from the wire schema."""

import os
import re
from typing import Any

from page_parts import document, split_docstring, table
from pydantic import BaseModel

OURS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/activations",
    "/v1/patch",
    "/v1/steering",
    "/v1/vectors",
    "/v1/vectors/{name}",
    "/v1/models",
    "/v1/health/live",
    "/v1/health/ready",
)
ADDED = ("steering", "monitor")
REQUESTS = {
    "steering": ("Steering", "SteeringTerm", "Gate", "PositionScope"),
    "monitor": ("Monitor", "MonitorBound"),
    "`POST /v1/activations`": ("ActivationsRequest", "ActivationInput", "Message", "Generation"),
    "`POST /v1/patch`": ("PatchRequest", "PatchPrompt"),
}


def page() -> str:
    """Text of the page."""
    document_ = openapi()
    schemas = document_["components"]["schemas"]
    parts = [
        (
            "vLLM's OpenAI server with our routes. Examples with curl: [howto-http.md](../howto-http.md). The service's own "
            "`/openapi.json` holds the same, and `/docs` shows it in a browser. Which key opens which route: "
            "[security.md](../security.md)."
        ),
        "## Routes of ours, and those that take more here\n\n" + _routes(document_, ours=True),
        (
            'Every error has OpenAI\'s body: `{"error": {"message", "type", "param", "code"}}`, with the value and the allowed '
            "range in the message."
        ),
        "## In a request",
    ]
    for heading, names in REQUESTS.items():
        parts.append(f"### {heading if heading.startswith('`') else f'`{heading}` of chat and completions'}")
        parts += [_request(name, _ours(schemas, name)) for name in names]
    parts.append("## In an answer")
    parts += [_answer(model) for model in _answers()]
    parts.append("## vLLM's routes\n\nAs vLLM documents them.\n\n" + _routes(document_, ours=False))
    return document("HTTP", parts)


def openapi() -> dict[str, Any]:
    """The OpenAPI document; needs vLLM, and no engine."""
    os.environ["VLLM_PLUGINS"] = "trait_steering"
    from trait_service.compat.names import make_arg_parser
    from vllm.entrypoints.launchers.app import build_app
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args(["some/model"])
    found: dict[str, Any] = build_app(args, ("generate",)).openapi()
    return found


def _answers() -> tuple[type[BaseModel], ...]:
    from trait_core import schema

    names = (
        "SteeringReport",
        "AppliedTerm",
        "AppliedGate",
        "ActedPositions",
        "SteeredPositions",
        "PatchReport",
        "PatchCell",
        "PatchRun",
        "MonitorReport",
        "MonitoredDirection",
        "MonitoredChoice",
        "CrossedBound",
        "ActivationsMetadata",
        "ServiceInfo",
        "SteeringLimits",
        "VectorInfo",
        "VectorMetadata",
        "LayerEvidence",
        "Elicitation",
        "ExtractedOn",
    )
    return tuple(getattr(schema, name) for name in names)


def _routes(document_: dict[str, Any], *, ours: bool) -> str:
    rows = []
    for path, operations in document_["paths"].items():
        if (path in OURS) == ours:
            for method, operation in operations.items():
                said = operation.get("description") or f"{operation.get('summary', '')}."
                rows.append((f"`{method.upper()} {path}`", said.partition("\n\n")[0]))
    rows.sort(key=lambda row: OURS.index(row[0].strip("`").split(" ")[1]) if ours else row[0].partition(" ")[2])
    return table(("route", ""), rows)


def _ours(schemas: dict[str, Any], name: str) -> dict[str, Any]:
    """Look up the schema; a name that vLLM also uses is prefixed with its module."""
    key = next(key for key in schemas if key == name or re.fullmatch(rf"trait_core__\w+__{name}", key))
    found: dict[str, Any] = schemas[key]
    return found


def _request(name: str, schema: dict[str, Any]) -> str:
    before, described = split_docstring(schema.get("description", ""))
    required = schema.get("required", [])
    rows = []
    for key, field in schema["properties"].items():
        default = "required" if key in required else f"`{field['default']}`" if field.get("default") is not None else ""
        rows.append((f"`{key}`", f"`{_type(field)}`", described.get(key, ""), default))
    return f"#### {name}\n\n{before}\n\n{table(('field', 'type', '', 'default'), rows)}"


def _answer(model: type[BaseModel]) -> str:
    before, described = split_docstring(model.__doc__ or "")
    properties = model.model_json_schema()["properties"]
    rows = [(f"`{key}`", f"`{_type(field)}`", described.get(key, "")) for key, field in properties.items()]
    head, _, tensors = before.partition("::\n\n")
    shown = f"{head}:\n\n```text\n{tensors}\n```" if tensors else before
    return f"#### {model.__name__}\n\n{shown}\n\n{table(('field', 'type', ''), rows)}"


def _type(field: dict[str, Any]) -> str:
    """A JSON schema in a few words: `list of 1..32 string (1..71 characters)`."""
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2].rpartition("__")[2]
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if "const" in field:
        return repr(field["const"])
    if "enum" in field:
        return " or ".join(repr(value) for value in field["enum"])
    return _plain_type(str(field.get("type", "any")), field)


def _plain_type(kind: str, field: dict[str, Any]) -> str:
    if kind == "array":
        inner = [_type(one) for one in field.get("prefixItems", [])] or [_type(field.get("items", {}))]
        size = _range(field, "minItems", "maxItems")
        return " ".join(filter(None, ["list of", size, ", ".join(dict.fromkeys(inner))]))
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"object of {_type(field['additionalProperties'])}"
    if length := _range(field, "minLength", "maxLength"):
        return f"{kind} ({length} characters)"
    bounds = _range(field, "minimum", "maximum") or _range(field, "exclusiveMinimum", "exclusiveMaximum", open_="<")
    return f"{kind} {bounds}".rstrip()


def _range(field: dict[str, Any], least: str, most: str, open_: str = "") -> str:
    """`1..32`, `1..`, `..32`; empty where there are no bounds."""
    low, high = field.get(least), field.get(most)
    if low is None and high is None:
        return ""
    if low == high:
        return f"{low:.0f}"
    return f"{open_ if low is not None else ''}{_number(low)}..{open_ if high is not None else ''}{_number(high)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value == int(value) else f"{value:g}"
