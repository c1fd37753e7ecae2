"""The live service behind the playground. The page talks to this server, which holds the address and the key."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from trait_client.http import AsyncTraitClient
from trait_core.errors import TraitError
from trait_core.schema import Message, Monitor, Steering

MAX_TURNS = 200
MAX_TOKENS = 4096


class ChatRequest(BaseModel):
    """Request of the page: a chat, and the steering and monitoring of the next reply."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_TURNS)]
    steering: Steering | None = None
    monitor: Monitor | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 128
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    seed: int | None = None


async def describe(client: AsyncTraitClient) -> dict[str, Any]:
    """Describe the service: model, limits and registered vectors.

    Raises:
        ServiceError: The service does not answer.
    """
    info = await client.info()
    return {
        "url": client.base_url,
        "model": await client.base_model(),
        "service": info.model_dump(mode="json"),
        "vectors": [vector.model_dump(mode="json") for vector in await client.vectors()],
    }


async def reply(client: AsyncTraitClient, request: ChatRequest) -> AsyncIterator[bytes]:
    """Stream one reply, one JSON document per line; an error is the last line."""
    try:
        async for delta in client.chat_stream(
            request.messages,
            steering=request.steering,
            monitor=request.monitor,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            seed=request.seed,
        ):
            yield delta.model_dump_json(exclude_none=True).encode() + b"\n"
        yield b'{"done": true}\n'
    except TraitError as error:
        yield json.dumps({"error": {"message": str(error)}}).encode() + b"\n"
