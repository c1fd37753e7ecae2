"""An HTTP transport that calls an ASGI application on an event loop of another thread: no socket, streams included."""

import asyncio
import queue
from collections.abc import Iterator
from typing import Any

import httpx

from trait_core.errors import ServiceUnreachableError
from trait_service.in_process import InProcessService


class ApplicationTransport(httpx.BaseTransport):
    """Carries each request to the application and its answer back, piece by piece. Threads may share it.

    Args:
        service: Has the application and its event loop.
    """

    def __init__(self, service: InProcessService) -> None:
        self._service = service

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Call the application and wait until its answer begins.

        Raises:
            ServiceUnreachableError: The engine is closed.
            httpx.RemoteProtocolError: The application failed before it answered.
        """
        if not self._service.running:
            raise ServiceUnreachableError("this LocalEngine is closed: make a new one")
        exchange = _Exchange(request, self._service.loop)
        asyncio.run_coroutine_threadsafe(exchange.run(self._service.app), self._service.loop)
        start = exchange.next_message()
        return httpx.Response(start["status"], headers=start["headers"], stream=exchange)


class _Exchange(httpx.SyncByteStream):
    """One request and its answer; the application's side runs on the loop, the caller's side reads a queue."""

    def __init__(self, request: httpx.Request, loop: asyncio.AbstractEventLoop) -> None:
        url = request.url
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path.partition(b"?")[0],
            "root_path": "",
            "query_string": url.query,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": ("127.0.0.1", 0),
            "server": (url.host, url.port or 80),
        }
        self._body: list[bytes] = [request.read()]
        self._loop = loop
        self._gone = asyncio.Event()
        self._messages: queue.SimpleQueue[dict[str, Any] | Exception | None] = queue.SimpleQueue()

    async def run(self, app: Any) -> None:
        """Run the application; None in the queue says that the answer is complete."""
        complete = False

        async def receive() -> dict[str, Any]:
            if self._body:
                return {"type": "http.request", "body": self._body.pop(), "more_body": False}
            await self._gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            nonlocal complete
            self._messages.put(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                complete = True
                self._messages.put(None)

        try:
            await app(self._scope, receive, send)
        except Exception as error:  # noqa: BLE001 - raised again where the caller waits
            self._messages.put(error)
        if not complete:
            self._messages.put(httpx.RemoteProtocolError("the application ended without a whole answer"))

    def next_message(self) -> dict[str, Any]:
        """Wait for the application's next message; {} when the answer is complete.

        Raises:
            httpx.RemoteProtocolError: The application failed.
        """
        try:
            message = self._messages.get()
        except BaseException:  # an interrupt: the engine ends the request
            self.close()
            raise
        if isinstance(message, httpx.RemoteProtocolError):
            raise message
        if isinstance(message, Exception):
            raise httpx.RemoteProtocolError(f"{type(message).__name__}: {message}") from message
        return message or {}

    def __iter__(self) -> Iterator[bytes]:
        """The body, in pieces as they are sent."""
        while message := self.next_message():
            yield message.get("body", b"")

    def close(self) -> None:
        """Tell the application that the caller has gone: a request that still runs is aborted."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._gone.set)
