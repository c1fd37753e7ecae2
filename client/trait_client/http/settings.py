"""Address of the service and retry policy. Command lines read the address from `URL_VARIABLE`."""

import random
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from trait_core.addresses import is_http_url, is_loopback
from trait_core.errors import InvalidRequestError

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE = "TRAIT_SERVICE_URL"
DEFAULT_DATABASE = Path("results.duckdb")


def serve_command(url: str) -> str | None:
    """The command that starts a service at an address; None if the address is another machine's."""
    if not is_loopback(url):
        return None
    port = urlsplit(url).port or 80
    return "trait-service serve smollm2" + ("" if port == urlsplit(DEFAULT_URL).port else f" --port {port}")


def normal_url(address: str) -> str:
    """The address without a trailing slash, and without the `/v1` that OpenAI clients use.

    Raises:
        InvalidRequestError: Not an http(s) URL with a host.
    """
    if not is_http_url(address):
        raise InvalidRequestError(
            f"{address!r} is not a service's address: write http://HOST:PORT, for example {DEFAULT_URL}", param="url"
        )
    return address.rstrip("/").removesuffix("/v1").rstrip("/")


@dataclass(frozen=True)
class RetryPolicy:
    """Number of retries of a request, and the pauses between them.

    Attributes:
        retries: Retries after the first attempt; 0 never retries.
        first_pause: Seconds before the first retry; doubled each time.
        longest_pause: Cap of the doubling, in seconds.
        longest_retry_after: Maximum `Retry-After` in seconds; if it is longer, the service's error is raised.
    """

    retries: int = 3
    first_pause: float = 0.5
    longest_pause: float = 8.0
    longest_retry_after: float = 120.0

    def pause(self, attempt: int, retry_after: float | None = None) -> float | None:
        """Seconds to wait after failed attempt `attempt` (0-based); None to give up.

        Jitter draws from the upper half of the interval, so that concurrent requests do not return at once.
        """
        if attempt >= self.retries or (retry_after is not None and retry_after > self.longest_retry_after):
            return None
        backoff: float = min(self.longest_pause, self.first_pause * 2**attempt) * random.uniform(0.5, 1.0)
        return backoff if retry_after is None else retry_after + 0.1 * backoff
