"""Observes every request: its id, a line in the log if wanted, and a count of refusals.

The log says who asked for which route, and how it ended. It holds no path as it was sent (a path may carry anything),
no query, no body and no key.
"""

import json
import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trait_service.access.keys import ANYONE
from trait_service.access.scopes import STATE_ENTRY, operation_of
from trait_service.metrics import REFUSALS

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_COUNTED = frozenset({400, 401, 403, 404, 405, 413, 422, 429, 500, 501, 503})


class Observer:
    """Outermost of our middleware: it sees every answer, refusals of the guards included.

    A caller's `X-Request-Id` of up to 64 of `A-Za-z0-9._-` is kept, any other is replaced: it goes into vLLM's
    request ids and into its logs.

    Args:
        app: The application behind.
        log_requests: Write a line of JSON for each request.
    """

    def __init__(self, app: ASGIApp, *, log_requests: bool) -> None:
        self._app = app
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on under an id, and note how it ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _identify(scope)
        started = time.monotonic()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(raw=message["headers"])[REQUEST_ID] = request_id
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            if status >= 400:
                REFUSALS.labels(str(status) if status in _COUNTED else "other").inc()
            if self._log_requests:
                self._log(scope, request_id, status, time.monotonic() - started)

    def _log(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        line: dict[str, Any] = {
            "request_id": request_id,
            "key": scope["state"].get(STATE_ENTRY, ANYONE).name if status != 401 else None,
            "operation": operation_of(scope),
            "status": status,
            "seconds": round(seconds, 4),
        }
        logger.info("%s", json.dumps(line))


def _identify(scope: Scope) -> str:
    """The request's id; the headers that go on carry it, and no other."""
    given = [value for name, value in scope["headers"] if name == REQUEST_ID.encode()]
    text = given[0].decode("latin-1") if len(given) == 1 else ""
    request_id = text if _GOOD_ID.fullmatch(text) else uuid.uuid4().hex
    scope["headers"] = [item for item in scope["headers"] if item[0] != REQUEST_ID.encode()]
    scope["headers"].append((REQUEST_ID.encode(), request_id.encode()))
    scope.setdefault("state", {})
    return request_id
