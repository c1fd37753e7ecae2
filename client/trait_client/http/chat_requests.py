"""Chat and text completions: what can be asked for, and the request bodies. No I/O."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from trait_client.http.report_check import Expected
from trait_core.errors import InvalidRequestError
from trait_core.schema import Message, Monitor, Steering

ChatMessages = str | Sequence[Message | Mapping[str, str]]
"""A user's turn as a string, or the whole chat."""


class CommonOptions(TypedDict, total=False):
    """How a reply is made.

    Attributes:
        steering: What is done to the residual stream; the default is nothing.
        monitor: Vectors that every token is projected on; the default is none.
        max_tokens: Generated at most; 128.
        temperature: 0, greedy.
        top_p: 1.
        seed: Of sampling; None takes any.
    """

    steering: Steering | None
    monitor: Monitor | None
    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None


class StreamOptions(CommonOptions, total=False):
    """As `CommonOptions`; `logprobs` is how many candidates are reported beside each token (None: nothing is)."""

    logprobs: int | None


class ChatOptions(StreamOptions, total=False):
    """As `StreamOptions`; `n` replies (1)."""

    n: int


class CompletionOptions(ChatOptions, total=False):
    """As `ChatOptions`; `token_ids` asks for the ids of what is generated."""

    token_ids: bool


def expected_of(options: CommonOptions) -> Expected:
    """What the answer owes a report of."""
    return Expected(options.get("steering"), options.get("monitor"))


def chat_body(
    messages: ChatMessages,
    model: str,
    *,
    logprobs: int | None = None,
    n: int = 1,
    stream: bool = False,
    **common: Unpack[CommonOptions],
) -> bytes:
    """The JSON body of `POST /v1/chat/completions`."""
    turns = [Message(role="user", content=messages)] if isinstance(messages, str) else messages
    body = _common_body(model, n, **common)
    body["messages"] = [turn.model_dump() if isinstance(turn, Message) else dict(turn) for turn in turns]
    if logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": logprobs}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json_bytes(body)


def completion_body(
    prompt: str | list[int],
    model: str,
    *,
    logprobs: int | None = None,
    n: int = 1,
    token_ids: bool = False,
    **common: Unpack[CommonOptions],
) -> bytes:
    """The JSON body of `POST /v1/completions`."""
    body = _common_body(model, n, **common) | {"prompt": prompt}
    if token_ids:
        body["return_token_ids"] = True
    if logprobs is not None:
        body["logprobs"] = logprobs
    return json_bytes(body)


def _common_body(
    model: str,
    n: int,
    *,
    steering: Steering | None = None,
    monitor: Monitor | None = None,
    max_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
    if n != 1:
        body["n"] = n
    if seed is not None:
        body["seed"] = seed
    if steering is not None:
        body["steering"] = steering.model_dump(mode="json", exclude_none=True)
    if monitor is not None:
        body["monitor"] = monitor.model_dump(mode="json", exclude_none=True)
    return body


def json_bytes(body: dict[str, Any]) -> bytes:
    """A request's JSON.

    Raises:
        InvalidRequestError: It holds what JSON has no word for, or a text that is not Unicode.
    """
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError) as error:  # UnicodeEncodeError (a lone surrogate) is a ValueError
        raise InvalidRequestError(f"the request cannot be written as JSON: {error}") from error
