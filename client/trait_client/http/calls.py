"""The common base of both clients: routes as `Call`s, reading of answers, rules for retries. No I/O."""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx
from pydantic import ValidationError

from trait_client import __version__
from trait_client.http.activations import Activations
from trait_client.http.answers import error_detail, retry_after
from trait_client.http.chat_requests import (
    ChatMessages,
    ChatOptions,
    CompletionOptions,
    StreamOptions,
    chat_body,
    completion_body,
    expected_of,
    json_bytes,
)
from trait_client.http.replies import ChatResult, ReplyStream, read_chat, read_completion
from trait_client.http.settings import RetryPolicy, normal_url, serve_command
from trait_core.addresses import fits_header, is_loopback
from trait_core.errors import (
    InvalidRequestError,
    ServiceError,
    ServiceUnreachableError,
    TraitError,
    UnknownVectorError,
    first_fault,
)
from trait_core.schema import (
    SHA256_PATTERN,
    ActivationsRequest,
    Message,
    PatchReport,
    PatchRequest,
    Response,
    ServiceInfo,
    VectorInfo,
    VectorLens,
    VectorList,
    VectorPointer,
    is_name,
)
from trait_core.storage import sha256_of
from trait_core.vectors.controls import is_control
from trait_core.vectors.file import VectorFile

T = TypeVar("T")

CHAT = "/v1/chat/completions"
OCTETS = "application/octet-stream"
CONNECT_TIMEOUT = 10.0
MAX_CONNECTIONS = 512
"""Maximum requests in flight; others wait for a connection. Below the usual limit of 1024 open files."""

KEEPALIVE_SECONDS = 2.0
"""Below the server's 5: closing a connection during a POST would lose it, and a POST is not retried."""

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_CONNECTION_LOST = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
_BUSY = frozenset({429, 503})


@dataclass(frozen=True)
class Call(Generic[T]):
    """One route: the request, and how its answer is read.

    Attributes:
        answers: Statuses other than 2xx that are answers, not errors.
        vector: Registry name in the path, if any: a 404 then is an `UnknownVectorError`.
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


class _Tokens(Response):
    tokens: list[int]


class Service:
    """Address, routes and answers of one service."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float, retries: int) -> None:
        self.base_url = normal_url(base_url)
        self._retry = RetryPolicy(retries)
        headers = {"user-agent": f"trait-client/{__version__}"}
        if api_key is not None:
            if not fits_header(api_key):
                raise InvalidRequestError(
                    "the API key holds characters that an HTTP header cannot carry", param="api_key"
                )
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
            # A proxy from the environment cannot reach this machine's loopback address.
            "trust_env": not is_loopback(self.base_url),
        }

    # ---- calls

    def _info(self) -> Call[ServiceInfo]:
        return Call("GET", "/v1/steering", lambda r: ServiceInfo.model_validate_json(r.content))

    def _models(self) -> Call[list[_Model]]:
        return Call("GET", "/v1/models", lambda r: _ModelList.model_validate_json(r.content).data)

    def _ready(self) -> Call[bool]:
        return Call("GET", "/v1/health/ready", lambda r: r.is_success, answers=frozenset({503}))

    def _vectors(self, *, controls: bool) -> Call[list[VectorInfo]]:
        def read(response: httpx.Response) -> list[VectorInfo]:
            listed = VectorList.model_validate_json(response.content).vectors
            return [
                vector for vector in listed if controls or not is_control(vector.name)
            ]  # an older service lists them

        return Call("GET", "/v1/vectors?controls=true" if controls else "/v1/vectors", read)

    def _vector(self, name: str) -> Call[VectorInfo]:
        return Call(
            "GET",
            _registry_path(name),
            lambda r: VectorInfo.model_validate_json(r.content),
            headers={"accept": "application/json"},
            vector=name,
        )

    def _vector_bytes(self, name: str) -> Call[bytes]:
        return Call("GET", f"{_registry_path(name)}/file", lambda r: r.content, headers={"accept": OCTETS}, vector=name)

    def _lens(self, vector: str | VectorFile, layers: Sequence[int] | None, top_k: int) -> Call[VectorLens]:
        def read(response: httpx.Response) -> VectorLens:
            return VectorLens.model_validate_json(response.content)

        if isinstance(vector, str):
            query = "&".join([f"top_k={top_k}", *(f"layer={layer}" for layer in layers or ())])
            return Call("GET", f"{_registry_path(vector)}/lens?{query}", read, vector=vector)
        body: dict[str, Any] = {"file": base64.b64encode(vector.to_bytes()).decode(), "top_k": top_k}
        return _post_json("/v1/lens", json_bytes(body if layers is None else {**body, "layers": list(layers)}), read)

    def _put_vector(self, name: str, data: bytes, *, allow_other_model: bool) -> Call[VectorInfo]:
        # As JSON without a query string: vllm-router passes only that.
        upload: dict[str, Any] = {"file": base64.b64encode(data).decode(), "sha256": sha256_of(data)}
        if allow_other_model:
            upload["allow_other_model"] = True
        return Call(
            "PUT",
            _registry_path(name),
            lambda r: VectorInfo.model_validate_json(r.content),
            content=json_bytes(upload),
            headers={"content-type": "application/json", "accept": "application/json"},
            vector=name,
        )

    def _point_vector(self, name: str, vector: str) -> Call[VectorInfo]:
        _registry_path(vector)  # refuses an invalid reference
        return Call(
            "PUT",
            _registry_path(name),
            lambda r: VectorInfo.model_validate_json(r.content),
            content=VectorPointer(vector=vector).model_dump_json().encode(),
            headers={"content-type": "application/json", "accept": "application/json"},
            vector=vector,
        )

    def _delete_vector(self, name: str, *, even_if_used: bool) -> Call[None]:
        path = _registry_path(name) + ("?even_if_used=true" if even_if_used else "")
        return Call("DELETE", path, lambda _: None, vector=name)

    def _activations(self, request: ActivationsRequest) -> Call[Activations]:
        return Call(
            "POST",
            "/v1/activations",
            lambda r: Activations.from_bytes(r.content),
            content=request.model_dump_json(exclude_none=True).encode(),
            headers={"content-type": "application/json", "accept": OCTETS},
        )

    def _patch(self, request: PatchRequest) -> Call[PatchReport]:
        body = request.model_dump_json(exclude_none=True).encode()
        return _post_json("/v1/patch", body, lambda r: PatchReport.model_validate_json(r.content))

    def _chat(self, messages: ChatMessages, model: str, options: ChatOptions) -> Call[ChatResult]:
        expected = expected_of(options)
        return _post_json(CHAT, chat_body(messages, model, **options), lambda r: read_chat(r.content, expected))

    def _chat_stream(self, messages: ChatMessages, model: str, options: StreamOptions) -> Call[ReplyStream]:
        expected = expected_of(options)
        return _post_json(CHAT, chat_body(messages, model, stream=True, **options), lambda _: ReplyStream(expected))

    def _complete(self, prompt: str | list[int], model: str, options: CompletionOptions) -> Call[ChatResult]:
        expected, body = expected_of(options), completion_body(prompt, model, **options)
        return _post_json("/v1/completions", body, lambda r: read_completion(r.content, expected))

    def _tokenize(
        self,
        text: str | Sequence[Message],
        *,
        add_special_tokens: bool,
        chat_template_kwargs: Mapping[str, Any] | None,
    ) -> Call[list[int]]:
        if isinstance(text, str):
            body: dict[str, Any] = {"prompt": text, "add_special_tokens": add_special_tokens}
        else:  # the chat template writes its own special tokens
            body = {"messages": [message.model_dump() for message in text], "add_generation_prompt": True}
            if chat_template_kwargs:
                body["chat_template_kwargs"] = dict(chat_template_kwargs)
        return _post_json("/tokenize", json_bytes(body), lambda r: _Tokens.model_validate_json(r.content).tokens)

    # ---- answers

    def _read(self, call: Call[T], response: httpx.Response) -> T:
        if not (response.is_success or response.status_code in call.answers):
            raise self._error(call, response)
        try:
            return call.read(response)
        except ValidationError as error:
            raise ServiceError(
                f"the answer of {call.method} {self.base_url}{call.path} is not understood: "
                f"{first_fault(error, whole='body')}. "
                "Is it a trait-service of this version?",
                status=response.status_code,
            ) from error

    def _error(self, call: Call[Any], response: httpx.Response) -> TraitError:
        status = response.status_code
        message, param = error_detail(response)
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

    # ---- retries

    def _pause_after_answer(self, call: Call[Any], response: httpx.Response, attempt: int) -> float | None:
        """Seconds until the call is retried; None if the answer is final. A busy service has not run the request."""
        if response.status_code not in _BUSY or response.status_code in call.answers:
            return None
        return self._retry.pause(attempt, retry_after(response))

    def _pause_after_failure(self, call: Call[Any], error: httpx.RequestError, attempt: int) -> float:
        """Seconds until the call is retried.

        Raises:
            ServiceUnreachableError: It is not retried: no attempts are left, or it is a POST that may have run.
        """
        repeatable = isinstance(error, _NOT_SENT) or (isinstance(error, _CONNECTION_LOST) and call.method != "POST")
        pause = self._retry.pause(attempt) if repeatable else None
        if pause is None:
            raise self._unreachable(call, error) from error
        return pause

    def _unreachable(self, call: Call[Any], error: httpx.RequestError) -> ServiceUnreachableError:
        if isinstance(error, _NOT_SENT):
            command = serve_command(self.base_url)
            start = (
                f"start one with `{command}` (any other model: its folder or Hugging Face id), or set"
                if command
                else "start it there, or set"
            )
            return ServiceUnreachableError(
                f"no service answers at {self.base_url} ({_reason(error)}): {start} --url or TRAIT_SERVICE_URL to the "
                "address of one that runs"
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


def first_base(models: list[_Model]) -> str:
    """The first served model that is not an alias."""
    if not models:
        raise ServiceError("the service serves no model (GET /v1/models is empty)")
    return next((model.id for model in models if model.parent is None), models[0].id)


def _reason(error: httpx.RequestError) -> str:
    return str(error) or type(error).__name__
