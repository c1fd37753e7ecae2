"""Limits: requests per minute for each key, requests in flight, completions of one request.

Refusals come before a stream starts and say when to retry: 429 where the caller asked too often, 503 where the
service is full.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send
from vllm.exceptions import VLLMValidationError

from trait_service.access.keys import ANYONE, ApiKey
from trait_service.access.scopes import STATE_ENTRY, operation_of
from trait_service.errors import error_response
from trait_service.settings import ServiceSettings

FULL_RETRY_S = 2
"""Seconds after which to retry a full service; replies end all the time, so that longer waits gain nothing."""

_FREE = frozenset({"POST /ping"})


class RateLimits:
    """A token bucket for each key: a minute's worth at once, refilled evenly.

    Args:
        per_minute: Limit of keys that have none themselves; None means unlimited.
        clock: Returns seconds.
    """

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait(self, caller: ApiKey) -> int:
        """Take one request of the caller's: 0, or the whole seconds until the next may come."""
        limit = caller.requests_per_minute or self._per_minute
        if limit is None:
            return 0
        now = self._clock()
        left, then = self._buckets.get(caller.name, (float(limit), now))
        left = min(float(limit), left + (now - then) * limit / 60)
        if left >= 1:
            self._buckets[caller.name] = (left - 1, now)
            return 0
        self._buckets[caller.name] = (left, now)
        return math.ceil((1 - left) * 60 / limit)


class InFlight:
    """Requests in flight, waiting ones included.

    Args:
        most: Largest number at once.

    Attributes:
        closing: The service is shutting down and takes no more requests.
        idle: Set while nothing is in flight.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0
        self.closing = False
        self.idle = asyncio.Event()
        self.idle.set()

    @contextmanager
    def slot(self) -> Iterator[bool]:
        """Count the request while it runs; yields False if it may not."""
        if self.closing or self.count >= self.most:
            yield False
            return
        self.count += 1
        self.idle.clear()
        try:
            yield True
        finally:
            self.count -= 1
            if self.count == 0:
                self.idle.set()


def engine_was_asked() -> bool:
    """True if a prompt of this HTTP request has, or may have, reached the engine."""
    claim = _claim.get()
    return claim is None or claim.claimed > 0


@dataclass
class _Claim:
    max_n: int
    max_completions: int
    claimed: int = 0


_claim: ContextVar[_Claim | None] = ContextVar("trait_claim", default=None)


def claim_completions(n: int) -> None:
    """Count one more prompt of this HTTP request, with `n` completions, before it reaches the engine.

    Raises:
        VLLMValidationError: `n`, or all the request's completions together, are too many.
    """
    claim = _claim.get()
    if claim is None:
        return
    if n > claim.max_n:
        raise VLLMValidationError(f"n is {n}; allowed: 1..{claim.max_n} (--max-n)", parameter="n")
    claim.claimed += n
    if claim.claimed > claim.max_completions:
        raise VLLMValidationError(
            f"the request asks for {claim.claimed} completions or more (prompts x n); allowed: "
            f"{claim.max_completions} (--max-completions). Send it in parts"
        )


class AdmissionGuard:
    """Refuses requests beyond the limits; reading routes are always answered.

    Args:
        app: The application behind.
        settings: The limits.
        in_flight: Requests in flight.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings, in_flight: InFlight) -> None:
        self._app = app
        self._settings = settings
        self._rates = RateLimits(settings.requests_per_minute)
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 429 or 503, or pass the request on."""
        if not _is_work(scope):
            await self._app(scope, receive, send)
            return
        caller: ApiKey = scope.get("state", {}).get(STATE_ENTRY, ANYONE)
        if seconds := self._rates.wait(caller):
            limit = caller.requests_per_minute or self._settings.requests_per_minute
            reason = f"{caller.name!r} may send {limit} requests a minute; try again in {seconds} s"
            await _later(scope, receive, send, 429, seconds, reason)
            return
        with self._in_flight.slot() as free:
            if not free:
                reason = (
                    "the service is shutting down and takes no more requests"
                    if self._in_flight.closing
                    else f"{self._in_flight.most} requests are in flight (--max-in-flight), which is the limit; try again in {FULL_RETRY_S} s"
                )
                await _later(scope, receive, send, 503, FULL_RETRY_S, reason)
                return
            token = _claim.set(_Claim(self._settings.max_n, self._settings.max_completions))
            try:
                await self._app(scope, receive, send)
            finally:
                _claim.reset(token)


def _is_work(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return False
    return operation_of(scope) not in _FREE


async def _later(scope: Scope, receive: Receive, send: Send, status: int, seconds: int, reason: str) -> None:
    response = error_response(reason, status)
    response.headers["Retry-After"] = str(seconds)
    await response(scope, receive, send)
