"""Chat and completion requests with steering, and their answers.

The request models are vLLM's with our field added; its handlers do the work. What they generate is steered because
their engine client is ours (`trait_service.http.engine_client`).
"""

import difflib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from trait_client.errors import InvalidRequestError
from trait_client.schema import Steering
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
from vllm.entrypoints.openai.completion.protocol import CompletionRequest, CompletionResponse
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.orca_metrics import metrics_header
from vllm.entrypoints.serve.utils.sse_keep_alive import with_sse_keep_alive

from trait_service.engine.spec import EXTRA_ARGS_KEY
from trait_service.http.alias import resolve_request, split_alias
from trait_service.http.engine_client import Run, steered
from trait_service.http.service import TraitService

METRICS_FORMAT_HEADER = "endpoint-load-metrics-format"
DONE = "data: [DONE]"
ERROR = 'data: {"error"'

_FIELDS = ("steering", "capture", "monitor")
_LATER = ("capture", "monitor")


class SteeredChatRequest(ChatCompletionRequest):
    """vLLM's chat request, with steering."""

    steering: Steering | None = None


class SteeredCompletionRequest(CompletionRequest):
    """vLLM's completion request, with steering."""

    steering: Steering | None = None


SteeredRequest = SteeredChatRequest | SteeredCompletionRequest


Handler = Callable[
    [Any, Request],
    Awaitable[AsyncGenerator[str, None] | ChatCompletionResponse | CompletionResponse | ErrorResponse],
]
"""A handler of vLLM's: full response, stream or error."""


async def serve(
    service: TraitService, request: SteeredRequest, raw_request: Request, handler: Handler, stream_object: str
) -> Response:
    """Resolve the request's steering, let vLLM's handler answer, and add the report.

    Raises:
        InvalidRequestError: The request cannot be steered as asked.
    """
    check_fields(request, service.settings.max_n)
    request.model, alias_terms = split_alias(request.model, service.served_names())
    resolved = resolve_request(service.resolver, request.steering, alias_terms)
    if resolved is not None and request.use_beam_search:
        raise InvalidRequestError("steering does not go with use_beam_search", param="use_beam_search")
    run = Run(resolved) if resolved else None
    with steered(run):
        result = await handler(request, raw_request)
    headers = metrics_header(raw_request.headers.get(METRICS_FORMAT_HEADER, ""))
    if isinstance(result, ErrorResponse):
        return JSONResponse(result.model_dump(), status_code=result.error.code)
    if isinstance(result, BaseModel):
        return JSONResponse(_with_report(result, run), headers=headers)
    chunks = result if run is None else stream_with_report(result, run, stream_object)
    interval = float(getattr(raw_request.app.state.args, "sse_keep_alive_interval", 0))
    return StreamingResponse(with_sse_keep_alive(chunks, interval), media_type="text/event-stream")


def check_fields(request: SteeredRequest, max_n: int) -> None:
    """Refuse what vLLM's lenient models would accept and ignore.

    Raises:
        InvalidRequestError: A field of a later version, a misspelt one of ours, or our reserved key.
    """
    extra = request.model_extra or {}
    for name in _LATER:
        if extra.get(name) is not None:
            raise InvalidRequestError(
                f"{name!r} is not available yet in this version; use POST /v1/activations", param=name
            )
    for name in extra:
        near = difflib.get_close_matches(name.lower(), _FIELDS, n=1, cutoff=0.7)
        if near and name not in _FIELDS:
            raise InvalidRequestError(f"unknown field {name[:80]!r}: did you mean {near[0]!r}?", param=name)
    if EXTRA_ARGS_KEY in (request.vllm_xargs or {}):
        raise InvalidRequestError(
            f"vllm_xargs.{EXTRA_ARGS_KEY} is reserved: use the field 'steering'", param="vllm_xargs"
        )
    if request.n is not None and not 1 <= request.n <= max_n:
        raise InvalidRequestError(f"n is {request.n}; allowed: 1..{max_n}", param="n")


async def stream_with_report(
    chunks: AsyncGenerator[str, None], run: Run, stream_object: str
) -> AsyncGenerator[str, None]:
    """The stream of vLLM, and before its `[DONE]` one more chunk with the report; none after an error chunk."""
    head: dict[str, Any] = {}
    failed = False
    async for chunk in chunks:
        if chunk.startswith(DONE):
            if not failed:
                yield _event({**head, "choices": [], "steering": run.report().model_dump()})
        elif chunk.startswith(ERROR):
            failed = True
        elif not head:
            first = json.loads(chunk.removeprefix("data: "))
            head = {"id": first["id"], "object": stream_object, "created": first["created"], "model": first["model"]}
        yield chunk


def _with_report(response: BaseModel, run: Run | None) -> dict[str, Any]:
    content = response.model_dump()
    if run is not None:
        content["steering"] = run.report().model_dump()
    return content


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
