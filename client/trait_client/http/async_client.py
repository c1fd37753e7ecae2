"""The asynchronous client: `Service` on one event loop."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
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


class AsyncTraitClient(Service):
    """As `TraitClient`, for hundreds of concurrent requests on one event loop.

    Up to `MAX_CONNECTIONS` requests are in flight; the service batches them. Arguments, methods and errors as in
    `TraitClient`.
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
        """Description and limits of the service."""
        return await self._run(self._info())

    async def models(self) -> list[str]:
        """Names of the base model and its aliases."""
        return [model.id for model in await self._run(self._models())]

    async def ready(self) -> bool:
        """Tell whether the service accepts requests; an unreachable address raises an error."""
        return await self._run(self._ready())

    async def vectors(self, *, controls: bool = False) -> list[VectorInfo]:
        """Registered vectors; with `controls` also the random directions that sweeps register."""
        return await self._run(self._vectors(controls=controls))

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
        """The stored bytes of a registered vector's file; their sha256 is the vector's identity.

        Raises:
            UnknownVectorError: It is not registered.
        """
        return await self._run(self._vector_bytes(name))

    async def put_vector(self, name: str, data: bytes, *, allow_other_model: bool = False) -> VectorInfo:
        """Register the bytes of a vector file under a name, replacing the vector that had it.

        `allow_other_model` as in `TraitClient.put_vector`.
        """
        return await self._run(self._put_vector(name, data, allow_other_model=allow_other_model))

    async def point_vector(self, name: str, vector: str) -> VectorInfo:
        """Point a name to a registered vector: an alias, or a return to an earlier version by its `sha256:...`.

        Raises:
            UnknownVectorError: `vector` is not registered.
        """
        return await self._run(self._point_vector(name, vector))

    async def delete_vector(self, name: str, *, even_if_used: bool = False) -> None:
        """Delete a vector and its versions from the registry.

        Raises:
            UnknownVectorError: It is not registered.
            ServiceError: Requests use it (409), and `even_if_used` is not set.
        """
        await self._run(self._delete_vector(name, even_if_used=even_if_used))

    async def lens(
        self, vector: str | VectorFile, *, layers: Sequence[int] | None = None, top_k: int = 20
    ) -> VectorLens:
        """As `TraitClient.lens`."""
        return await self._run(self._lens(vector, layers, top_k))

    async def activations(self, request: ActivationsRequest) -> Activations:
        """Read, or generate and read, texts in one batch."""
        return await self._run(self._activations(request))

    async def patch(self, request: PatchRequest) -> PatchReport:
        """As `TraitClient.patch`."""
        return await self._run(self._patch(request))

    async def base_model(self) -> str:
        """The first served model that is not an alias; requested once."""
        async with self._base_model_lock:
            if self._base_model is None:
                self._base_model = first_base(await self._run(self._models()))
        return self._base_model

    async def chat(
        self, messages: ChatMessages, *, model: str | None = None, **options: Unpack[ChatOptions]
    ) -> ChatResult:
        """As `TraitClient.chat`."""
        return await self._run(self._chat(messages, model or await self.base_model(), options))

    async def chat_stream(
        self, messages: ChatMessages, *, model: str | None = None, **options: Unpack[StreamOptions]
    ) -> AsyncIterator[ChatDelta]:
        """As `TraitClient.chat_stream`."""
        call = self._chat_stream(messages, model or await self.base_model(), options)
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
        self, prompt: str | list[int], *, model: str | None = None, **options: Unpack[CompletionOptions]
    ) -> ChatResult:
        """As `TraitClient.complete`."""
        return await self._run(self._complete(prompt, model or await self.base_model(), options))

    async def tokenize(
        self,
        text: str | Sequence[Message],
        *,
        add_special_tokens: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """As `TraitClient.tokenize`."""
        call = self._tokenize(text, add_special_tokens=add_special_tokens, chat_template_kwargs=chat_template_kwargs)
        return await self._run(call)

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
