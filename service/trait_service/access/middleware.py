"""Checks of every request before it reaches a route: API key, size of the body, valid JSON.

Pure ASGI, innermost of all middleware: CORS, which answers preflights itself, lies outside.
"""

import json
import re

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trait_service.access.keys import ApiKey, Keyring
from trait_service.access.scopes import STATE_ENTRY, operation_of, refusal_of
from trait_service.engine.spec import EXTRA_ARGS_KEY, STEERING_FIELDS, reserved_key_message
from trait_service.errors import error_response

OPEN_PATHS = frozenset({"/v1/health/live", "/v1/health/ready", "/health"})
"""Paths that answer without a key: the probes of Kubernetes and of `vllm-router` (`/health`) carry none. They answer 200 or 503."""

STEERED_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/activations"})
"""Routes that read `steering`. Elsewhere the field would be ignored, and the answer served unsteered."""

MAX_DEPTH = 100
"""Maximum JSON nesting. Tool schemas are the deepest legitimate input; validators recurse."""

_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)


class ApiKeyGuard:
    """Requires `Authorization: Bearer KEY` on every route but the health probes, and a scope that opens the route.

    Args:
        app: The application behind.
        keys: Accepted keys.
    """

    def __init__(self, app: ASGIApp, keys: Keyring) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 403 (or close a websocket), or pass the request on with its caller."""
        if scope["type"] not in ("http", "websocket") or _is_open(scope):
            await self._app(scope, receive, send)
            return
        caller = self._caller(Headers(scope=scope))
        if caller is None:
            await _refuse(scope, receive, send, 401, "no valid API key: send the header 'Authorization: Bearer KEY'")
        elif reason := refusal_of(caller, operation_of(scope)):
            await _refuse(scope, receive, send, 403, reason)
        else:
            scope.setdefault("state", {})[STATE_ENTRY] = caller
            await self._app(scope, receive, send)

    def _caller(self, headers: Headers) -> ApiKey | None:
        given = headers.getlist("authorization")
        # Two headers could be read in two ways by this guard and by a proxy.
        scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        found = self._keys.find(key)
        return found if scheme.lower() == "bearer" else None


def _is_open(scope: Scope) -> bool:
    # The router's own reading of the path, so that --root-path cannot make the two differ.
    return scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and get_route_path(scope) in OPEN_PATHS


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason[:120]})
        return
    response = error_response(reason, status)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    await response(scope, receive, send)


class BodyGuard:
    """Limits the size of bodies, and refuses JSON that no route can answer properly.

    Refused with 400: NaN and infinities (no JSON, and not echoable), lone surrogates (no UTF-8), nesting deeper than
    `MAX_DEPTH`, and our own fields on routes that would ignore them.

    Args:
        app: The application behind.
        max_bytes: Largest body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, check it, and pass it on in one piece."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        body = await self._read(scope, receive)
        if body is None:
            await error_response(f"the body is larger than {self._max_bytes} bytes (--max-body-bytes)", 413)(
                scope, receive, send
            )
            return
        if refusal := _refusal(scope, body):
            await refusal(scope, receive, send)
            return
        await self._app(scope, _replayed(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            return None
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._max_bytes:
                return None
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return b"".join(chunks)


def _replayed(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _refusal(scope: Scope, body: bytes) -> Response | None:
    """The answer to JSON that must not pass; None for all other bodies. Only suspicious bodies are parsed here."""
    if "json" not in Headers(scope=scope).get("content-type", ""):
        return None
    if _is_deep(body):
        return error_response(f"the body is nested deeper than {MAX_DEPTH} levels", 400)
    strange = b"NaN" in body or b"Infinity" in body or rb"\u" in body or b"\xed" in body
    foreign = get_route_path(scope) not in STEERED_PATHS and any(
        f'"{name}"'.encode() in body for name in STEERING_FIELDS
    )
    if not (strange or foreign or EXTRA_ARGS_KEY.encode() in body):
        return None
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except _NotANumberError as error:
        return error_response(f"{error} is not JSON: numbers must be finite", 400)
    except (ValueError, RecursionError):
        return None  # FastAPI answers a body that is not JSON at all
    return _refusal_of_document(document, foreign=foreign)


def _is_deep(body: bytes) -> bool:
    """True if brackets outside strings nest deeper than `MAX_DEPTH`."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for found in _BRACKETS.finditer(body):
        match found.group()[:1]:
            case b"[" | b"{":
                depth += 1
            case b"]" | b"}":
                depth -= 1
        if depth > MAX_DEPTH:
            return True
    return False


def _refusal_of_document(document: object, *, foreign: bool) -> Response | None:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return error_response("the body holds a lone surrogate: it is not Unicode text", 400)
    if not isinstance(document, dict):
        return None
    for field in ("vllm_xargs", "extra_args", "sampling_params"):
        if _reserved_key_in(document.get(field)):
            return error_response(reserved_key_message(field), 400, field)
    named = next((name for name in STEERING_FIELDS if document.get(name) is not None), None)
    if foreign and named is not None:
        return error_response(
            f"this route does not read {named!r}: it would be ignored. Use one of {', '.join(sorted(STEERED_PATHS))}",
            400,
            named,
        )
    return None


def _reserved_key_in(value: object) -> bool:
    return isinstance(value, dict) and (EXTRA_ARGS_KEY in value or _reserved_key_in(value.get("extra_args")))


class _NotANumberError(Exception):
    """A constant such as NaN, which is not JSON."""


def _refuse_constant(name: str) -> object:
    raise _NotANumberError(name)
