"""The live service behind the playground: the page asks this server, which holds the address and the key."""

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
    """What the page sends: a chat, and how the next reply is steered and watched."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_TURNS)]
    steering: Steering | None = None
    monitor: Monitor | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 128
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    seed: int | None = None


async def describe(client: AsyncTraitClient) -> dict[str, Any]:
    """What the service serves, allows and has registered.

    Raises:
        ServiceError: It does not answer.
    """
    info = await client.info()
    return {
        "url": client.base_url,
        "model": await client.base_model(),
        "service": info.model_dump(mode="json"),
        "vectors": [vector.model_dump(mode="json") for vector in await client.vectors()],
    }


async def reply(client: AsyncTraitClient, request: ChatRequest) -> AsyncIterator[bytes]:
    """One reply as it is generated: a JSON document a line; a failure is the last one."""
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
