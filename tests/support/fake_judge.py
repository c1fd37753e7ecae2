"""A judge on this machine's loopback: a real HTTP server whose answers a test chooses, faults included."""

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from loopback import listening_at
from trait_client.judge import JudgeConfig

RUBRIC = "Shouting: 0 is calm, 100 is all in capital letters."
QUESTION_FENCE = re.compile(r"The reply to rate[^\n]*:\n(=+)\n(.*)\n\1\n", re.DOTALL)


class Fault:
    """An answer that is not a score.

    Args:
        status: HTTP status.
        body: Sent as it is.
        headers: Beside the usual ones.
        delay: Seconds before it.
        length: Content-Length, where it is to lie.
    """

    def __init__(self, status=200, body=b"", headers=None, delay=0.0, length=None) -> None:
        self.status, self.body, self.delay, self.length = status, body, delay, length
        self.headers = headers or {}


def completion(
    text: str | None, candidates: dict[str, float] | None = None, usage=(100, 2), *, ends: str = "stop", **message: str
) -> dict:
    """A chat completion; `candidates` are the probabilities at its first token, None answers without logprobs."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": ends}
    if candidates is not None:
        tops = [{"token": token, "logprob": math.log(p)} for token, p in candidates.items()]
        choice["logprobs"] = {"content": [{"token": text, "logprob": -0.1, "top_logprobs": tops}]}
    document = {"id": "x", "object": "chat.completion", "model": "j", "choices": [choice]}
    if usage is not None:
        document["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return document


def rated_reply(body: dict) -> str:
    """The reply that a request asks about."""
    return QUESTION_FENCE.search(body["messages"][0]["content"])[2]


def honest(_number: int, body: dict) -> dict:
    """90 for a reply in capital letters, else 10; with probabilities on three numbers."""
    value = 90 if rated_reply(body).isupper() else 10
    return completion(str(value), {str(value): 0.8, str(value + 1): 0.1, str(value - 1): 0.1})


class JudgeServer:
    """Counts requests and answers by `behave(number, body)`: a document, or a `Fault`.

    Attributes:
        bodies: Requests so far, in order of arrival.
        keys: Their Authorization headers.
        times: When they came, monotonic seconds.
        most_at_once: Most that were being answered at the same time.
        delay: Seconds of every answer.
    """

    def __init__(self, behave: Callable[[int, dict], object] = honest, delay: float = 0.0) -> None:
        self.behave, self.delay = behave, delay
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.times: list[float] = []
        self.at_once = self.most_at_once = 0
        self.url = ""
        self._lock = threading.Lock()

    def config(self, **values) -> JudgeConfig:
        """A judge at this address that does not wait long."""
        return JudgeConfig(**({"url": self.url, "model": "j", "retry_pause": 0.01, "timeout": 5.0} | values))

    def enter(self, path: str, key: str | None, body: dict) -> int:
        """A request came in; its number."""
        with self._lock:
            self.bodies.append(body)
            self.keys.append(key)
            self.paths.append(path)
            self.times.append(time.monotonic())
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            return len(self.bodies) - 1

    def leave(self) -> None:
        """A request is about to be answered."""
        with self._lock:
            self.at_once -= 1


@contextmanager
def judge_listening(server: JudgeServer) -> Iterator[JudgeServer]:
    """The server at an address of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
            number = server.enter(self.path, self.headers.get("authorization"), body)
            try:
                answer = server.behave(number, body)
                fault = answer if isinstance(answer, Fault) else Fault(body=json.dumps(answer).encode())
                time.sleep(server.delay + fault.delay)
            finally:
                server.leave()
            try:
                self.send_response(fault.status)
                for name, value in fault.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(fault.body) if fault.length is None else fault.length))
                self.end_headers()
                self.wfile.write(fault.body)
                if fault.length is not None:  # broken off in the middle
                    self.close_connection = True
            except (BrokenPipeError, ConnectionResetError):  # the client waited no longer
                self.close_connection = True

    with listening_at(Handler) as server.url:
        yield server
