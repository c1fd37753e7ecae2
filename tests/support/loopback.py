"""A server of a test's own on the loopback interface."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Listener(ThreadingHTTPServer):
    request_queue_size = 512  # 5 by default: many threads connect at once, and the rest would be reset
    daemon_threads = True


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
