"""The two models of a comparison: each a service, and the base model or an adapter that it serves."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trait_client.http import AsyncTraitClient
from trait_client.prompt_sets.prompts import SetPrompt
from trait_core.errors import InvalidRequestError, UnknownVectorError
from trait_core.model_identity import ModelIdentity
from trait_core.schema import NO_ADAPTER, ServiceInfo, VectorInfo
from trait_core.storage import sha256_of
from trait_core.vectors.file import VectorFile
from trait_core.vectors.transfer import apply_to

_SAMPLE = 32
"""Prompts whose tokens are compared between two services."""


@dataclass(frozen=True)
class Side:
    """One of the two models.

    Attributes:
        adapter: LoRA adapter that requests name as their model; None asks the service's base model.
        vectors: `sha256:...` of a vector file at the base's service -> of the same directions at this side's service.
    """

    client: AsyncTraitClient
    info: ServiceInfo
    adapter: str | None
    vectors: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name of the adapter, or of the model."""
        return self.adapter or self.info.model

    @property
    def identity(self) -> dict[str, Any]:
        """Everything about the model that its readings depend on."""
        return ModelIdentity.of(self.info, None, NO_ADAPTER, asked_as=self.adapter).as_identity()


@contextlib.asynccontextmanager
async def opened_sides(
    base: str | None, variant: str, url: str, api_key: str | None
) -> AsyncIterator[tuple[Side, Side]]:
    """Connect to the services of both sides, which may be one.

    Args:
        base: `NAME` (a model at `url`), `URL`, or `URL#NAME`; None is the base model at `url`.
        variant: The same.
        url: Service of a side without an address of its own.
        api_key: API key of both services.

    Raises:
        InvalidRequestError: A service has no such model or adapter.
        ServiceError: A service does not answer.
    """
    places = [_place(side, url) for side in (base or "", variant)]
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, AsyncTraitClient] = {}
        for address, _ in places:
            if address not in clients:
                clients[address] = await stack.enter_async_context(AsyncTraitClient(address, api_key))
        first, second = [await side_of(clients[address], name) for address, name in places]
        yield first, second


async def side_of(client: AsyncTraitClient, name: str = "") -> Side:
    """A model at a service: the base model if `name` is empty or its own, else an adapter.

    Raises:
        InvalidRequestError: The service has no such adapter.
    """
    info = await client.info()
    side = Side(client, info, None if name in {"", info.model} else name)
    _ = side.identity  # refuses an unknown adapter
    return side


def _place(side: str, url: str) -> tuple[str, str]:
    """Address and name."""
    if "://" not in side:
        return url.rstrip("/"), side
    address, _, name = side.partition("#")
    return address.rstrip("/"), name


async def demand_comparable(base: Side, variant: Side, prompts: Sequence[SetPrompt]) -> None:
    """Refuse two models that cannot read the same tokens or be projected on the same directions.

    Raises:
        InvalidRequestError: Number of layers, width or tokeniser differ.
    """
    for name in ("n_layers", "d_model"):
        first, second = (getattr(side.info, name) for side in (base, variant))
        if first != second:
            raise InvalidRequestError(
                f"{base.label} has {name} {first} and {variant.label} {second}: only models of one shape can be compared",
                param="variant",
            )
    if base.client is variant.client:
        return
    for prompt in prompts[:_SAMPLE]:
        text = prompt.text or "\n".join(message.text for message in prompt.messages or ())
        first, second = [await side.client.tokenize(text, add_special_tokens=False) for side in (base, variant)]
        if first != second:
            raise InvalidRequestError(
                f"{base.label} and {variant.label} have different tokenisers: prompt {prompt.prompt_id!r} becomes other token "
                "ids. Only models with one tokeniser can be compared on the same tokens",
                param="variant",
            )


async def with_vectors(side: Side, base: Side, vectors: Sequence[VectorInfo]) -> Side:
    """The side with the vectors of the base at its own service; those that it lacks are registered there.

    A fine-tune at a service of its own counts as another model. It gets a file with the same directions and centres whose
    metadata name both models.

    Raises:
        InvalidRequestError: Another vector has the name there.
        ServiceError: The service does not take it.
    """
    if side.client is base.client:
        return Side(side.client, side.info, side.adapter, {vector.sha256: vector.sha256 for vector in vectors})
    found = {}
    for vector in vectors:
        file = VectorFile.from_bytes(await base.client.vector_bytes(vector.sha256))
        data = apply_to(file, side.info).to_bytes()
        found[vector.sha256] = sha256_of(data)
        if not await _has(side.client, found[vector.sha256]):
            if await _has(side.client, vector.name):
                raise InvalidRequestError(
                    f"the service of {side.label} has another vector called {vector.name!r}: delete it there, or register the "
                    "base's under another name at both services",
                    param="vectors",
                )
            registered = await side.client.put_vector(vector.name, data)
            found[vector.sha256] = registered.sha256
    return Side(side.client, side.info, side.adapter, found)


async def _has(client: AsyncTraitClient, reference: str) -> bool:
    try:
        await client.vector(reference)
    except UnknownVectorError:
        return False
    return True
