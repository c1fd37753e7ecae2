"""The HTTP client, sync and async.

Every route is a `Call`: what is sent, and how its answer is read. `_Service` builds calls, reads answers and decides
on repetitions; `TraitClient` and `AsyncTraitClient` only do I/O and wait.
"""

import asyncio
import email.utils
import ipaddress
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, Self, TypeVar

import httpx
from pydantic import ValidationError

from trait_client import __version__
from trait_client.activations import Activations
from trait_client.chat import (
    ChatDelta,
    ChatMessages,
    ChatResult,
    ReplyStream,
    chat_body,
    completion_body,
    read_chat,
    read_completion,
)
from trait_client.errors import (
    InvalidRequestError,
    ServiceError,
    ServiceUnreachableError,
    TraitError,
    UnknownVectorError,
)
from trait_client.schema import (
    SHA256_PATTERN,
    ActivationsRequest,
    ErrorBody,
    Response,
    ServiceInfo,
    Steering,
    VectorInfo,
    VectorList,
    is_name,
)
from trait_client.settings import DEFAULT_URL, RetryPolicy, normal_url
from trait_client.vector_file import VectorFile

T = TypeVar("T")

OCTETS = "application/octet-stream"
CONNECT_TIMEOUT = 10.0
MAX_CONNECTIONS = 512
"""Requests in flight at once; more wait for a connection. Below the usual limit of 1024 open files."""

KEEPALIVE_SECONDS = 2.0
"""Below the server's 5: a connection that is closed under a POST would lose it, and a POST is not repeated."""

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_BROKEN_OFF = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
_BUSY = frozenset({429, 503})


@dataclass(frozen=True)
class Call(Generic[T]):
    """One route: what is sent and how the answer is read.

    Attributes:
        answers: Statuses beyond 2xx that are an answer, not an error.
        vector: The registry name in the path, where there is one: its 404 is an `UnknownVectorError`.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    answers: frozenset[int] = frozenset()
    vector: str | None = None


class _Model(Response):
    id: str
    parent: str | None = None


class _ModelList(Response):
    data: list[_Model]


class _Service:
    """What both clients share: no I/O here."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float, retries: int) -> None:
        self.base_url = normal_url(base_url)
        self._retry = RetryPolicy(retries)
        headers = {"user-agent": f"trait-client/{__version__}"}
        if api_key is not None:
            if not (api_key.isascii() and api_key.isprintable()):
                raise InvalidRequestError("the API key holds characters that no HTTP header takes", param="api_key")
            headers["authorization"] = f"Bearer {api_key}"
        self._options: dict[str, Any] = {
            "base_url": self.base_url,
            "headers": headers,
            "timeout": httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT), pool=None),
            "limits": httpx.Limits(
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=MAX_CONNECTIONS,
                keepalive_expiry=KEEPALIVE_SECONDS,
            ),
            # A proxy of the environment cannot reach this machine's own loopback.
            "trust_env": not _is_loopback(self.base_url),
        }

    # ---- calls

    def _info(self) -> Call[ServiceInfo]:
        return Call("GET", "/v1/steering", lambda r: ServiceInfo.model_validate_json(r.content))

    def _models(self) -> Call[list[_Model]]:
        return Call("GET", "/v1/models", lambda r: _ModelList.model_validate_json(r.content).data)

    def _ready(self) -> Call[bool]:
        return Call("GET", "/v1/health/ready", lambda r: r.is_success, answers=frozenset({503}))

    def _vectors(self) -> Call[list[VectorInfo]]:
        return Call("GET", "/v1/vectors", lambda r: VectorList.model_validate_json(r.content).vectors)

    def _vector(self, name: str) -> Call[VectorInfo]:
        return Call(
            "GET",
            _registry_path(name),
            lambda r: VectorInfo.model_validate_json(r.content),
            headers={"accept": "application/json"},
            vector=name,
        )

    def _vector_bytes(self, name: str) -> Call[bytes]:
        return Call("GET", _registry_path(name), lambda r: r.content, headers={"accept": OCTETS}, vector=name)

    def _put_vector(self, name: str, data: bytes, *, allow_other_model: bool) -> Call[VectorInfo]:
        return Call(
            "PUT",
            _registry_path(name) + ("?allow_other_model=true" if allow_other_model else ""),
            lambda r: VectorInfo.model_validate_json(r.content),
            content=data,
            headers={"content-type": OCTETS, "accept": "application/json"},
            vector=name,
        )

    def _delete_vector(self, name: str) -> Call[None]:
        return Call("DELETE", _registry_path(name), lambda _: None, vector=name)

    def _activations(self, request: ActivationsRequest) -> Call[Activations]:
        return Call(
            "POST",
            "/v1/activations",
            lambda r: Activations.from_bytes(r.content),
            content=request.model_dump_json(exclude_none=True).encode(),
            headers={"content-type": "application/json", "accept": OCTETS},
        )

    def _chat(self, body: bytes, *, steered: bool) -> Call[ChatResult]:
        return _post_json("/v1/chat/completions", body, lambda r: read_chat(r.content, steered=steered))

    def _chat_stream(self, body: bytes, *, steered: bool) -> Call[ReplyStream]:
        return _post_json("/v1/chat/completions", body, lambda _: ReplyStream(steered=steered))

    def _complete(self, body: bytes, *, steered: bool) -> Call[ChatResult]:
        return _post_json("/v1/completions", body, lambda r: read_completion(r.content, steered=steered))

    # ---- answers

    def _read(self, call: Call[T], response: httpx.Response) -> T:
        if not (response.is_success or response.status_code in call.answers):
            raise self._error(call, response)
        try:
            return call.read(response)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            raise ServiceError(
                f"the answer of {call.method} {self.base_url}{call.path} is not understood: {where}: {first['msg']}. "
                "Is it a trait-service of this version?",
                status=response.status_code,
            ) from error

    def _error(self, call: Call[Any], response: httpx.Response) -> TraitError:
        status = response.status_code
        message, param = _error_detail(response)
        if status in {401, 403}:
            return ServiceError(
                f"{self.base_url} refuses the API key ({status} {message}): set TRAIT_API_KEY or --api-key to the key "
                "that the service was started with",
                status,
            )
        if status in {404, 405} and message.rstrip(".").lower() in {"not found", "method not allowed"}:
            return ServiceError(
                f"{self.base_url} has no {call.method} {call.path}: is it a trait-service, and of this version?", status
            )
        if status == 404 and call.vector is not None:
            return UnknownVectorError(message, param=param or "vector")
        return ServiceError(message, status, param)

    # ---- repetitions

    def _pause_after_answer(self, call: Call[Any], response: httpx.Response, attempt: int) -> float | None:
        """Seconds until the call is repeated; None if the answer stands. A busy service has not run the request."""
        if response.status_code not in _BUSY or response.status_code in call.answers:
            return None
        return self._retry.pause(attempt, _retry_after(response))

    def _pause_after_failure(self, call: Call[Any], error: httpx.RequestError, attempt: int) -> float:
        """Seconds until the call is repeated.

        Raises:
            ServiceUnreachableError: It is not repeated: attempts are used up, or it is a POST that may have run.
        """
        repeatable = isinstance(error, _NOT_SENT) or (isinstance(error, _BROKEN_OFF) and call.method != "POST")
        pause = self._retry.pause(attempt) if repeatable else None
        if pause is None:
            raise self._unreachable(call, error) from error
        return pause

    def _unreachable(self, call: Call[Any], error: httpx.RequestError) -> ServiceUnreachableError:
        if isinstance(error, _NOT_SENT):
            return ServiceUnreachableError(
                f"no service answers at {self.base_url} ({_reason(error)}): start one with `trait-service serve MODEL`, "
                "or set --url or TRAIT_SERVICE_URL to its address"
            )
        if isinstance(error, httpx.TimeoutException):
            limit = self._options["timeout"].read
            return ServiceUnreachableError(
                f"{self.base_url} did not answer {call.method} {call.path} within {limit:g} s: "
                "raise the timeout or send less at once"
            )
        return ServiceUnreachableError(
            f"{self.base_url} broke off {call.method} {call.path} ({_reason(error)}): see the service's log"
        )


class TraitClient(_Service):
    """Client of one service, to be used as a context manager or closed.

    Args:
        base_url: The service's address, with or without `/v1`.
        api_key: The key the service was started with.
        timeout: Seconds of silence after which a request is given up.
        transport: Replaces the network in tests.
        retries: Repetitions when the service is busy (429, 503) or not there yet. A POST that may have run is never
            repeated.

    Raises:
        ServiceUnreachableError: (Every method.) No service answers.
        ServiceError: (Every method.) The service's own error, with its status and the field it names.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        timeout: float = 600.0,
        transport: httpx.BaseTransport | None = None,
        retries: int = 3,
    ) -> None:
        super().__init__(base_url, api_key, timeout, retries)
        self._http = httpx.Client(transport=transport, **self._options)
        self._base_model: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def info(self) -> ServiceInfo:
        """What the service serves and allows."""
        return self._run(self._info())

    def models(self) -> list[str]:
        """Names of the base model and its aliases."""
        return [model.id for model in self._run(self._models())]

    def ready(self) -> bool:
        """Whether the service takes requests; an address where nothing answers raises."""
        return self._run(self._ready())

    def vectors(self) -> list[VectorInfo]:
        """Registered vectors."""
        return self._run(self._vectors())

    def vector(self, name: str) -> VectorInfo:
        """One registered vector.

        Raises:
            UnknownVectorError: It is not registered.
        """
        return self._run(self._vector(name))

    def vector_file(self, name: str) -> VectorFile:
        """The file of a registered vector.

        Raises:
            UnknownVectorError: It is not registered.
        """
        return VectorFile.from_bytes(self._run(self._vector_bytes(name)))

    def vector_bytes(self, name: str) -> bytes:
        """The file of a registered vector as it is stored: its sha256 is the vector's identity.

        Raises:
            UnknownVectorError: It is not registered.
        """
        return self._run(self._vector_bytes(name))

    def put_vector(self, name: str, data: bytes, *, allow_other_model: bool = False) -> VectorInfo:
        """Register the bytes of a vector file under a name, in place of what had it.

        `allow_other_model` accepts a vector of another model of the same shape, such as a fine-tune.
        """
        return self._run(self._put_vector(name, data, allow_other_model=allow_other_model))

    def delete_vector(self, name: str) -> None:
        """Take a vector out of the registry.

        Raises:
            UnknownVectorError: It is not registered.
        """
        self._run(self._delete_vector(name))

    def activations(self, request: ActivationsRequest) -> Activations:
        """Read, or generate and read, texts in one batch."""
        return self._run(self._activations(request))

    def base_model(self) -> str:
        """The first served model that is no alias; asked for once."""
        if self._base_model is None:
            self._base_model = _first_base(self._run(self._models()))
        return self._base_model

    def chat(
        self,
        messages: ChatMessages,
        *,
        model: str | None = None,
        steering: Steering | None = None,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        logprobs: int | None = None,
        n: int = 1,
    ) -> ChatResult:
        """Reply to a chat; `logprobs` is how many candidates are reported beside each token.

        Raises:
            SteeringFailedError: Steering was asked for and the answer does not report any.
        """
        body = chat_body(
            messages,
            model=model or self.base_model(),
            steering=steering,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            logprobs=logprobs,
            n=n,
        )
        return self._run(self._chat(body, steered=steering is not None))

    def chat_stream(
        self,
        messages: ChatMessages,
        *,
        model: str | None = None,
        steering: Steering | None = None,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        logprobs: int | None = None,
    ) -> Iterator[ChatDelta]:
        """As `chat`, in pieces as they are generated; the last ones carry the usage and the steering report.

        Raises:
            SteeringFailedError: At the end: steering was asked for and the stream did not report any.
        """
        body = chat_body(
            messages,
            model=model or self.base_model(),
            steering=steering,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            logprobs=logprobs,
            stream=True,
        )
        call = self._chat_stream(body, steered=steering is not None)
        response = self._exchange(call, stream=True)
        try:
            reply = self._read(call, response)
            for data in response.iter_bytes():
                yield from reply.feed(data)
            reply.finish()
        except httpx.RequestError as error:
            raise self._unreachable(call, error) from error
        finally:
            response.close()

    def complete(
        self,
        prompt: str | list[int],
        *,
        model: str | None = None,
        steering: Steering | None = None,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        logprobs: int | None = None,
        n: int = 1,
    ) -> ChatResult:
        """Continue raw text or token ids.

        Raises:
            SteeringFailedError: Steering was asked for and the answer does not report any.
        """
        body = completion_body(
            prompt,
            model=model or self.base_model(),
            steering=steering,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            logprobs=logprobs,
            n=n,
        )
        return self._run(self._complete(body, steered=steering is not None))

    def _run(self, call: Call[T]) -> T:
        return self._read(call, self._exchange(call))

    def _exchange(self, call: Call[Any], *, stream: bool = False) -> httpx.Response:
        for attempt in itertools.count():
            request = self._http.build_request(call.method, call.path, content=call.content, headers=call.headers)
            try:
                response = self._http.send(request, stream=stream)
                if stream and not response.is_success:
                    response.read()
            except httpx.RequestError as error:
                pause: float | None = self._pause_after_failure(call, error, attempt)
            else:
                pause = self._pause_after_answer(call, response, attempt)
                if pause is None:
                    return response
            time.sleep(pause or 0)
        raise AssertionError("unreachable")


class AsyncTraitClient(_Service):
    """As `TraitClient`, for hundreds of concurrent requests on one event loop.

    Up to `MAX_CONNECTIONS` are in flight; the service batches them. Arguments, methods and errors are `TraitClient`'s.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        timeout: float = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
        retries: int = 3,
    ) -> None:
        super().__init__(base_url, api_key, timeout, retries)
        self._http = httpx.AsyncClient(transport=transport, **self._options)
        self._base_model: str | None = None
        self._base_model_lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def info(self) -> ServiceInfo:
        """What the service serves and allows."""
        return await self._run(self._info())

    async def models(self) -> list[str]:
        """Names of the base model and its aliases."""
        return [model.id for model in await self._run(self._models())]

    async def ready(self) -> bool:
        """Whether the service takes requests; an address where nothing answers raises."""
        return await self._run(self._ready())

    async def vectors(self) -> list[VectorInfo]:
        """Registered vectors."""
        return await self._run(self._vectors())

    async def vector(self, name: str) -> VectorInfo:
        """One registered vector.

        Raises:
            UnknownVectorError: It is not registered.
        """
        return await self._run(self._vector(name))

    async def vector_file(self, name: str) -> VectorFile:
        """The file of a registered vector.

        Raises:
            UnknownVectorError: It is not registered.
        """
        return VectorFile.from_bytes(await self._run(self._vector_bytes(name)))

    async def vector_bytes(self, name: str) -> bytes:
        """The file of a registered vector as it is stored: its sha256 is the vector's identity.

        Raises:
            UnknownVectorError: It is not registered.
        """
        return await self._run(self._vector_bytes(name))

    async def put_vector(self, name: str, data: bytes, *, allow_other_model: bool = False) -> VectorInfo:
        """Register the bytes of a vector file under a name, in place of what had it.

        `allow_other_model` accepts a vector of another model of the same shape, such as a fine-tune.
        """
        return await self._run(self._put_vector(name, data, allow_other_model=allow_other_model))

    async def delete_vector(self, name: str) -> None:
        """Take a vector out of the registry.

        Raises:
            UnknownVectorError: It is not registered.
        """
        await self._run(self._delete_vector(name))

    async def activations(self, request: ActivationsRequest) -> Activations:
        """Read, or generate and read, texts in one batch."""
        return await self._run(self._activations(request))

    async def base_model(self) -> str:
        """The first served model that is no alias; asked for once."""
        async with self._base_model_lock:
            if self._base_model is None:
                self._base_model = _first_base(await self._run(self._models()))
        return self._base_model

    async def chat(
        self,
        messages: ChatMessages,
        *,
        model: str | None = None,
        steering: Steering | None = None,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        logprobs: int | None = None,
        n: int = 1,
    ) -> ChatResult:
        """As `TraitClient.chat`."""
        body = chat_body(
            messages,
            model=model or await self.base_model(),
            steering=steering,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            logprobs=logprobs,
            n=n,
        )
        return await self._run(self._chat(body, steered=steering is not None))

    async def chat_stream(
        self,
        messages: ChatMessages,
        *,
        model: str | None = None,
        steering: Steering | None = None,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        logprobs: int | None = None,
    ) -> AsyncIterator[ChatDelta]:
        """As `TraitClient.chat_stream`."""
        body = chat_body(
            messages,
            model=model or await self.base_model(),
            steering=steering,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            logprobs=logprobs,
            stream=True,
        )
        call = self._chat_stream(body, steered=steering is not None)
        response = await self._exchange(call, stream=True)
        try:
            reply = self._read(call, response)
            async for data in response.aiter_bytes():
                for delta in reply.feed(data):
                    yield delta
            reply.finish()
        except httpx.RequestError as error:
            raise self._unreachable(call, error) from error
        finally:
            await response.aclose()

    async def complete(
        self,
        prompt: str | list[int],
        *,
        model: str | None = None,
        steering: Steering | None = None,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        logprobs: int | None = None,
        n: int = 1,
    ) -> ChatResult:
        """As `TraitClient.complete`."""
        body = completion_body(
            prompt,
            model=model or await self.base_model(),
            steering=steering,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            logprobs=logprobs,
            n=n,
        )
        return await self._run(self._complete(body, steered=steering is not None))

    async def _run(self, call: Call[T]) -> T:
        return self._read(call, await self._exchange(call))

    async def _exchange(self, call: Call[Any], *, stream: bool = False) -> httpx.Response:
        for attempt in itertools.count():
            request = self._http.build_request(call.method, call.path, content=call.content, headers=call.headers)
            try:
                response = await self._http.send(request, stream=stream)
                if stream and not response.is_success:
                    await response.aread()
            except httpx.RequestError as error:
                pause: float | None = self._pause_after_failure(call, error, attempt)
            else:
                pause = self._pause_after_answer(call, response, attempt)
                if pause is None:
                    return response
            await asyncio.sleep(pause or 0)
        raise AssertionError("unreachable")


def _post_json(path: str, body: bytes, read: Callable[[httpx.Response], T]) -> Call[T]:
    return Call("POST", path, read, content=body, headers={"content-type": "application/json"})


def _registry_path(name: str) -> str:
    if not (is_name(name) or re.fullmatch(SHA256_PATTERN, name)):
        raise InvalidRequestError(
            f"{name[:80]!r} is not a vector's name: use 1 to 64 of a-z 0-9 _ . - beginning with a letter or digit, "
            "or sha256:... of a registered file",
            param="vector",
        )
    return f"/v1/vectors/{name}"


def _first_base(models: list[_Model]) -> str:
    if not models:
        raise ServiceError("the service serves no model (GET /v1/models is empty)")
    return next((model.id for model in models if model.parent is None), models[0].id)


def _error_detail(response: httpx.Response) -> tuple[str, str | None]:
    """Message and field of an error: OpenAI's body, vLLM's `{"error": "..."}`, FastAPI's `detail`, or plain text."""
    try:
        detail = ErrorBody.model_validate_json(response.content).error
    except ValidationError:
        pass
    else:
        return detail.message, detail.param
    try:
        body = json.loads(response.content)
    except ValueError:
        body = response.text.strip()[:200]
    if isinstance(body, dict):
        body = next((body[key] for key in ("error", "detail", "message") if key in body), body)
    return (body if isinstance(body, str) else json.dumps(body)[:500]) or response.reason_phrase, None


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds asked for by `Retry-After`, written as a number or a date; None where it is absent or unreadable."""
    text = response.headers.get("retry-after", "").strip()
    if text.isdigit():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when.tzinfo else None


def _is_loopback(url: str) -> bool:
    host = httpx.URL(url).host
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reason(error: httpx.RequestError) -> str:
    return str(error) or type(error).__name__
