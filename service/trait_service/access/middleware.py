"""Checks of every request before it reaches a route: API key, size of the body, valid JSON.

Pure ASGI, innermost of all middleware: CORS, which answers preflights itself, lies outside.
"""

import json
import re
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from trait_core.errors import InvalidRequestError

from trait_service.access.keys import ApiKey, Keyring
from trait_service.access.scopes import STATE_ENTRY, operation_of, refusal_of
from trait_service.errors import error_response, response_of
from trait_service.resolving.request_fields import check_request_fields

OPEN_PATHS = frozenset({"/v1/health/live", "/v1/health/ready", "/health"})
"""Paths that answer without a key: the probes of Kubernetes and of `vllm-router` (`/health`) carry none. They answer 200 or 503."""

MAX_DEPTH = 100
"""Maximum JSON nesting. Tool schemas are the deepest legitimate input; validators recurse."""

_FORM_NAME = re.compile(rb'(?i)content-disposition:[^\r\n]*?[;\s]name="?([^";\r\n]{1,200})')
_BRACKETS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)


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
    `MAX_DEPTH`, and fields that ask for steering where they would be ignored (`request_fields`).

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
    """The answer to a body that must not pass; None for all others."""
    kind = Headers(scope=scope).get("content-type", "").lower()
    if "json" in kind:
        return _refusal_of_json(scope, body)
    if "form" in kind:  # audio is sent so
        return _refusal_of_fields(scope, dict.fromkeys(_form_names(kind, body), ""))
    return None


def _refusal_of_json(scope: Scope, body: bytes) -> Response | None:
    if _is_deep(body):
        return error_response(f"the body is nested deeper than {MAX_DEPTH} levels", 400)
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
        if rb"\u" in body or b"\xed" in body or b"\0" in body:
            json.dumps(document, ensure_ascii=False).encode()
    except _NotANumberError as error:
        return error_response(f"{error} is not JSON: numbers must be finite", 400)
    except UnicodeEncodeError:
        return error_response("the body holds a lone surrogate: it is not Unicode text", 400)
    except (ValueError, RecursionError):
        return None  # FastAPI answers a body that is not JSON at all
    return _refusal_of_fields(scope, document) if isinstance(document, dict) else None


def _refusal_of_fields(scope: Scope, fields: dict[str, object]) -> Response | None:
    service = getattr(scope["app"].state, "trait", None) if "app" in scope else None
    try:
        check_request_fields(get_route_path(scope), fields, service.served_names() if service else ())
    except InvalidRequestError as error:
        return response_of(error)
    return None


def _form_names(kind: str, body: bytes) -> list[str]:
    if "multipart" in kind:
        return [name.decode("utf-8", "replace") for name in _FORM_NAME.findall(body)]
    return [name for name, _ in parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)]


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


class _NotANumberError(Exception):
    """A constant such as NaN, which is not JSON."""


def _refuse_constant(name: str) -> object:
    raise _NotANumberError(name)
