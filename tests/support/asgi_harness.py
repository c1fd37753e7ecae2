"""An ASGI application called directly: the path arrives as a server would decode it, and the route that ran is seen."""

import asyncio
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reached:
    """The outcome of a request: its status, and `METHOD /template` of the route that ran."""

    status: int
    operation: str | None
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


async def call(
    app: Any,
    method: str,
    path: str,
    key: str | None = None,
    *,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    body: bytes = b"",
    root_path: str = "",
) -> Reached:
    """One request; a route that fails without an engine counts as reached, with status 500."""
    given = list(headers) if key is None else [(b"authorization", b"Bearer " + key.encode()), *headers]
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": root_path,
        "query_string": query.encode(),
        "headers": given,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    waiting = [{"type": "http.request", "body": body, "more_body": False}]
    start: dict[str, Any] = {"status": 500, "headers": []}
    chunks: list[bytes] = []

    async def receive() -> dict:
        if not waiting:
            await asyncio.Event().wait()  # the client stays
        return waiting.pop()

    async def send(message: dict) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            chunks.append(message.get("body", b""))

    try:
        await app(scope, receive, send)
    except Exception:  # noqa: BLE001 - the application has no engine: what it would have answered is not asked here
        start["status"] = 500
    route = scope.get("route")
    ran = scope.get("endpoint") is not None
    template = getattr(route, "path", None) or (scope["path"] if ran else None)
    return Reached(start["status"], f"{method} {template}" if ran else None, b"".join(chunks), tuple(start["headers"]))
