"""Scopes that open each route. A route that is not listed here needs `admin`.

The route of a request is the one that the application's own router would choose for the same ASGI scope, so that no
spelling of a path is ambiguous.
"""

from fastapi import Request
from starlette.routing import Match
from starlette.types import Scope as AsgiScope

from trait_service.access.keys import ALL_SCOPES, ANYONE, ApiKey, Scope
from trait_service.errors import ForbiddenError

STATE_ENTRY = "trait_caller"
"""Entry of the ASGI scope's state that holds the caller's key."""

OPERATION_ENTRY = "trait_operation"
"""Entry of the ASGI scope's state that holds the operation, once it is known."""

ADMIN: frozenset[Scope] = frozenset({"admin"})
_MODEL_USERS: frozenset[Scope] = frozenset({"generate", "steer", "vectors:write"})

_GROUPS: tuple[tuple[frozenset[Scope], str], ...] = (
    (
        ALL_SCOPES,
        """
        GET /ping   POST /ping      GET /version
        GET /openapi.json   GET /docs   GET /docs/oauth2-redirect   GET /redoc
        """,
    ),
    (
        _MODEL_USERS,
        """
        GET /v1/models  GET /v1/steering
        GET /v1/vectors     GET /v1/vectors/{name}  GET /v1/vectors/{name}/file
        GET /v1/vectors/{name}/lens     POST /v1/lens
        """,
    ),
    (
        frozenset({"generate"}),
        """
        POST /v1/chat/completions   POST /v1/chat/completions/batch     POST /v1/completions
        POST /v1/responses  GET /v1/responses/{response_id}     POST /v1/responses/{response_id}/cancel
        POST /v1/messages   POST /v1/messages/count_tokens
        POST /invocations   POST /inference/v1/generate     POST /generative_scoring    POST /v1/systemone
        POST /tokenize      POST /detokenize
        POST /v1/chat/completions/render    POST /v1/completions/render     POST /v1/messages/render
        POST /v1/responses/render   POST /v1/chat/completions/derender      POST /v1/completions/derender
        """,
    ),
    (frozenset({"steer"}), "POST /v1/activations   POST /v1/patch"),
    (frozenset({"vectors:write"}), "PUT /v1/vectors/{name}  DELETE /v1/vectors/{name}"),
    (frozenset({"metrics"}), "GET /metrics   GET /load"),
)


def _table() -> dict[str, frozenset[Scope]]:
    table: dict[str, frozenset[Scope]] = {}
    for scopes, text in _GROUPS:
        words = text.split()
        table |= {f"{method} {path}": scopes for method, path in zip(words[::2], words[1::2], strict=True)}
    return table


OPERATIONS = _table()
"""`METHOD /path/{template}` -> scopes, any of which opens it; `admin` opens everything."""


def operation(scope: AsgiScope) -> str | None:
    """`METHOD /path/{template}` of the route that will answer; None if no route matches."""
    application = scope.get("app")
    if application is None or scope["type"] != "http":
        return None
    for route in application.router.routes:
        if route.matches(scope)[0] is Match.FULL:
            path = getattr(route, "path", None)
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            return None if path is None else f"{method} {path}"
    return None


def operation_of(scope: AsgiScope) -> str | None:
    """As `operation`, computed once for each request."""
    state = scope.setdefault("state", {})
    if OPERATION_ENTRY not in state:
        state[OPERATION_ENTRY] = operation(scope)
    name: str | None = state[OPERATION_ENTRY]
    return name


def scopes_of(name: str | None) -> frozenset[Scope]:
    """Scopes, any of which opens the operation."""
    return ADMIN if name is None else OPERATIONS.get(name, ADMIN)


def caller_of(request: Request) -> ApiKey:
    """The caller's key; `ANYONE` if the service needs none."""
    caller: ApiKey = getattr(request.state, STATE_ENTRY, ANYONE)
    return caller


def require_steer(request: Request, what: str) -> None:
    """Refuse a caller who may not touch the residual stream.

    Raises:
        ForbiddenError: The key lacks the scope `steer`.
    """
    caller = caller_of(request)
    if not caller.allows(frozenset({"steer"})):
        raise ForbiddenError(f"{what} needs a key with the scope 'steer'; {caller.name!r} has {_listed(caller)}")


def refusal_of(caller: ApiKey, name: str | None) -> str | None:
    """Reason why the caller may not use the operation; None if it may."""
    scopes = scopes_of(name)
    if caller.allows(scopes):
        return None
    wanted = " or ".join(repr(scope) for scope in sorted(scopes - ADMIN) or ["admin"])
    return f"{name or 'this'} needs a key with the scope {wanted}; {caller.name!r} has {_listed(caller)}"


def _listed(caller: ApiKey) -> str:
    return ", ".join(repr(scope) for scope in sorted(caller.scopes))
