"""A server of a test's own on the loopback interface."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


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
