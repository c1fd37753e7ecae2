"""The synchronous client: `Service` with blocking I/O."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar, Unpack

import httpx

from trait_client.http.activations import Activations
from trait_client.http.calls import Call, Service, first_base
from trait_client.http.chat_requests import ChatMessages, ChatOptions, CompletionOptions, StreamOptions
from trait_client.http.replies import ChatDelta, ChatResult
from trait_client.http.settings import DEFAULT_URL
from trait_core.schema import (
    ActivationsRequest,
    Message,
    PatchReport,
    PatchRequest,
    ServiceInfo,
    VectorInfo,
    VectorLens,
)
from trait_core.vectors.file import VectorFile

T = TypeVar("T")


class TraitClient(Service):
    """Client of one service; use it as a context manager or close it.

    Args:
        base_url: The service's address, with or without `/v1`.
        api_key: The key the service was started with.
        timeout: Seconds without data after which a request fails.
        transport: Replaces the network in tests.
        retries: Retries if the service is busy (429, 503) or not reachable yet. A POST that may have run is never
            retried.

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
        """Description and limits of the service."""
        return self._run(self._info())

    def models(self) -> list[str]:
        """Names of the base model and its aliases."""
        return [model.id for model in self._run(self._models())]

    def ready(self) -> bool:
        """Tell whether the service accepts requests; an unreachable address raises an error."""
        return self._run(self._ready())

    def vectors(self, *, controls: bool = False) -> list[VectorInfo]:
        """Registered vectors; with `controls` also the random directions that sweeps register."""
        return self._run(self._vectors(controls=controls))

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
        """The stored bytes of a registered vector's file; their sha256 is the vector's identity.

        Raises:
            UnknownVectorError: It is not registered.
        """
        return self._run(self._vector_bytes(name))

    def put_vector(self, name: str, data: bytes, *, allow_other_model: bool = False) -> VectorInfo:
        """Register the bytes of a vector file under a name, replacing the vector that had it.

        `allow_other_model` accepts a vector of another model with the same shape, such as the base model's. The registered
        file is then made for the served model and names both (`extracted_on`); its sha256 differs.
        """
        return self._run(self._put_vector(name, data, allow_other_model=allow_other_model))

    def point_vector(self, name: str, vector: str) -> VectorInfo:
        """Point a name to a registered vector: an alias, or a return to an earlier version by its `sha256:...`.

        Raises:
            UnknownVectorError: `vector` is not registered.
        """
        return self._run(self._point_vector(name, vector))

    def delete_vector(self, name: str, *, even_if_used: bool = False) -> None:
        """Delete a vector and its versions from the registry.

        Raises:
            UnknownVectorError: It is not registered.
            ServiceError: Requests use it (409), and `even_if_used` is not set.
        """
        self._run(self._delete_vector(name, even_if_used=even_if_used))

    def lens(self, vector: str | VectorFile, *, layers: Sequence[int] | None = None, top_k: int = 20) -> VectorLens:
        """The tokens that a vector's directions promote and suppress, through the model's final norm and unembedding.

        Args:
            vector: Name or `sha256:...` of a registered vector, or a vector file, which is not registered.
            layers: Layers to read; None reads the chosen layer.
            top_k: Number of tokens at either end, 200 at most.

        Raises:
            UnknownVectorError: It is not registered.
            ServiceError: The vector has no such layer, or is not for the served model (400).
        """
        return self._run(self._lens(vector, layers, top_k))

    def activations(self, request: ActivationsRequest) -> Activations:
        """Read, or generate and read, texts in one batch."""
        return self._run(self._activations(request))

    def patch(self, request: PatchRequest) -> PatchReport:
        """Run a prompt with streams of another in it, one cell at a time; nothing is stored.

        Raises:
            ServiceError: The prompts cannot be aligned, the answers cannot be compared, or there are too many cells (400).
        """
        return self._run(self._patch(request))

    def base_model(self) -> str:
        """The first served model that is not an alias; requested once."""
        if self._base_model is None:
            self._base_model = first_base(self._run(self._models()))
        return self._base_model

    def chat(self, messages: ChatMessages, *, model: str | None = None, **options: Unpack[ChatOptions]) -> ChatResult:
        """Reply to a chat.

        Raises:
            SteeringFailedError: Steering or monitoring was requested and the answer does not report it as requested.
        """
        return self._run(self._chat(messages, model or self.base_model(), options))

    def chat_stream(
        self, messages: ChatMessages, *, model: str | None = None, **options: Unpack[StreamOptions]
    ) -> Iterator[ChatDelta]:
        """As `chat`, streamed; the last pieces carry the usage and the steering report.

        Raises:
            SteeringFailedError: At the end: steering or monitoring was requested and the stream did not report it.
        """
        call = self._chat_stream(messages, model or self.base_model(), options)
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
        self, prompt: str | list[int], *, model: str | None = None, **options: Unpack[CompletionOptions]
    ) -> ChatResult:
        """Continue raw text or token ids.

        Raises:
            SteeringFailedError: Steering or monitoring was requested and the answer does not report it as requested.
        """
        return self._run(self._complete(prompt, model or self.base_model(), options))

    def tokenize(
        self,
        text: str | Sequence[Message],
        *,
        add_special_tokens: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return the ids of raw text, or of a chat with the header of the assistant's turn.

        Raw text gets the special tokens that the tokenizer adds (BOS on many models), unless `add_special_tokens` is false.
        `chat_template_kwargs` are variables of the chat template.
        """
        call = self._tokenize(text, add_special_tokens=add_special_tokens, chat_template_kwargs=chat_template_kwargs)
        return self._run(call)

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
