"""Chat and text completions: the options, and the request bodies. No I/O."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from trait_client.http.report_check import Expected
from trait_core.errors import InvalidRequestError
from trait_core.schema import Message, Monitor, Steering

ChatMessages = str | Sequence[Message | Mapping[str, str]]
"""A user's turn as a string, or the whole chat."""


class CommonOptions(TypedDict, total=False):
    """Options of generation.

    Attributes:
        steering: Changes to the residual stream; default none.
        monitor: Vectors that every token is projected on; default none.
        max_tokens: Maximum number of generated tokens; default 128.
        temperature: Default 0, greedy.
        top_p: Default 1.
        seed: Seed of sampling; None takes any.
    """

    steering: Steering | None
    monitor: Monitor | None
    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None


class StreamOptions(CommonOptions, total=False):
    """As `CommonOptions`, for a chat.

    Attributes:
        logprobs: Number of candidates reported with each token; None reports none.
        chat_template_kwargs: Variables of the chat template, such as `enable_thinking`; default none.
    """

    logprobs: int | None
    chat_template_kwargs: Mapping[str, Any] | None


class ChatOptions(StreamOptions, total=False):
    """As `StreamOptions`, for several replies.

    Attributes:
        n: Number of replies; default 1.
    """

    n: int


class CompletionOptions(CommonOptions, total=False):
    """As `CommonOptions`, for raw text.

    Attributes:
        logprobs: Number of candidates reported with each token; None reports none.
        n: Number of replies; default 1.
        token_ids: Also return the generated ids.
        echo: Put the prompt before the reply. With `logprobs`, its tokens are reported too, without the first, which has no
            probability; all tokens are then written by their ids, `token_id:17`, since texts need not be distinct.
    """

    logprobs: int | None
    n: int
    token_ids: bool
    echo: bool


def expected_of(options: CommonOptions) -> Expected:
    """The parts of a request that its answer must report."""
    return Expected(options.get("steering"), options.get("monitor"))


def chat_body(
    messages: ChatMessages,
    model: str,
    *,
    logprobs: int | None = None,
    n: int = 1,
    stream: bool = False,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    **common: Unpack[CommonOptions],
) -> bytes:
    """The JSON body of `POST /v1/chat/completions`."""
    turns = [Message(role="user", content=messages)] if isinstance(messages, str) else messages
    body = _common_body(model, n, **common)
    body["messages"] = [turn.model_dump() if isinstance(turn, Message) else dict(turn) for turn in turns]
    if chat_template_kwargs:
        body["chat_template_kwargs"] = dict(chat_template_kwargs)
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
    echo: bool = False,
    **common: Unpack[CommonOptions],
) -> bytes:
    """The JSON body of `POST /v1/completions`."""
    body = _common_body(model, n, **common) | {"prompt": prompt}
    if echo:
        body |= {"echo": True, "return_tokens_as_token_ids": True}
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
        InvalidRequestError: It holds a value that JSON cannot express, or text that is not Unicode.
    """
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError) as error:  # UnicodeEncodeError (a lone surrogate) is a ValueError
        raise InvalidRequestError(f"the request cannot be written as JSON: {error}") from error
