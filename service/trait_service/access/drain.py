"""Shutdown: running requests finish, new ones are refused, and a crashed engine is distinguished from a normal exit.

SIGTERM and SIGINT start the shutdown: new work is answered with 503 and `Retry-After`, the readiness probes with 503, so
that a balancer turns away; running requests have `drain_seconds`. A second signal ends the process at once: a request
that has no answer yet gets a 503 as well, and a stream is cut.
"""

import asyncio
import logging
import signal
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trait_service.access.admission import FULL_RETRY_S, InFlight
from trait_service.access.scopes import operation_of
from trait_service.errors import error_response

logger = logging.getLogger(__name__)

ARGS_ENTRY = "trait_shutdown_cause"
"""Attribute of vLLM's parsed arguments that holds the `ShutdownCause`."""

READINESS = frozenset({"GET /health", "GET /v1/health/ready"})


@dataclass
class ShutdownCause:
    """The cause of the server's end.

    Attributes:
        signals: Names of the signals received; a server that ends without one has lost its engine.
    """

    signals: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, args: Namespace) -> "ShutdownCause":
        """The cause that these arguments hold, made on the first call."""
        found = vars(args).setdefault(ARGS_ENTRY, cls())
        assert isinstance(found, cls)
        return found


class _Answer:
    """The answer to one request: a 500 during the shutdown is held back, since another replica may do better.

    Attributes:
        started: A part of the answer has been sent.
        unfinished: A 500 was held back; nothing has been sent.
    """

    def __init__(self, send: Send, in_flight: InFlight) -> None:
        self._send = send
        self._in_flight = in_flight
        self.started = False
        self.unfinished = False

    async def send(self, message: Message) -> None:
        """Send a part of the answer, unless the answer is held back."""
        if message["type"] == "http.response.start":
            self.unfinished = self._in_flight.closing and message["status"] == 500
        if not self.unfinished:
            self.started = True
            await self._send(message)


async def _later(scope: Scope, receive: Receive, send: Send) -> None:
    response = error_response("the service is shutting down: the request was not finished. Send it again", 503)
    response.headers["Retry-After"] = str(FULL_RETRY_S)
    await response(scope, receive, send)


class DrainGuard:
    """Handles the signals in place of vLLM, which would stop the engine under running requests.

    Args:
        app: The application behind.
        in_flight: Requests in flight.
        cause: Notes the signals.
        seconds: Time for running requests to finish.
    """

    def __init__(self, app: ASGIApp, in_flight: InFlight, cause: ShutdownCause, seconds: float) -> None:
        self._app = app
        self._in_flight = in_flight
        self._cause = cause
        self._seconds = seconds
        self._drain: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; during the shutdown the readiness probes fail, and so does what cannot be finished."""
        if scope["type"] == "lifespan":
            # vLLM has set its handlers by now; these replace them.
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self._end, number, scope["app"].state)
        elif self._in_flight.closing and scope["type"] == "http" and operation_of(scope) in READINESS:
            await error_response("the service is shutting down", 503)(scope, receive, send)
            return
        if scope["type"] == "http":
            await self._finish(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _finish(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 503 where the shutdown ends a request before its answer has started."""
        answer = _Answer(send, self._in_flight)
        try:
            await self._app(scope, receive, answer.send)
        except (Exception, asyncio.CancelledError) as error:
            # The server answers a task that it cancels with a 500 of its own, and cuts a stream with a page of traceback.
            if not self._in_flight.closing or (answer.started and isinstance(error, Exception)):
                raise
            answer.unfinished = not answer.started
        if answer.unfinished:
            await _later(scope, receive, send)

    def _end(self, number: signal.Signals, state: Any) -> None:
        self._cause.signals.append(number.name)
        self._in_flight.closing = True
        if self._drain is None:
            logger.info("%s: %d requests are in flight; new ones are refused", number.name, self._in_flight.count)
            self._drain = asyncio.create_task(self._wait(state))
        else:
            state.server.force_exit = state.server.should_exit = True

    async def _wait(self, state: Any) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._in_flight.idle.wait()
        except TimeoutError:
            logger.warning("%d requests are aborted after %g s", self._in_flight.count, self._seconds)
            state.server.force_exit = True
        state.server.should_exit = True
