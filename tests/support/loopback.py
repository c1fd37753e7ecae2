"""A server of a test's own on the loopback interface."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx


class _Listener(ThreadingHTTPServer):
    request_queue_size = 512  # 5 by default: many threads connect at once, and the rest would be reset
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is what some tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def listening_at(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address, `http://127.0.0.1:<port>`, while `handler` serves it and says nothing on stderr."""
    quiet = type(handler.__name__, (handler,), {"log_message": lambda *_: None})
    listener = _Listener(("127.0.0.1", 0), quiet)
    threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}"
    finally:
        listener.shutdown()
        listener.server_close()


@contextmanager
def on_a_port(answer: Callable[[httpx.Request], httpx.Response]) -> Iterator[str]:
    """The URL of a service on the loopback.

    A transport error that `answer` raises closes the connection; so does one that the iterator of a streamed body raises.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = list(self.headers.items())
            try:
                self._send(
                    answer(httpx.Request(self.command, f"http://fake{self.path}", headers=headers, content=content))
                )
            except (httpx.TransportError, BrokenPipeError, ConnectionResetError):  # one of the two sides is gone
                self.close_connection = True

        def _send(self, response: httpx.Response) -> None:
            chunked = response.headers.get("transfer-encoding") == "chunked"
            if not chunked:
                response.headers["content-length"] = str(len(response.content))
            self.send_response(response.status_code)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if not chunked:
                self.wfile.write(response.content)
                return
            for piece in response.iter_raw():
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - the base class's names

    with listening_at(Handler) as url:
        yield url
