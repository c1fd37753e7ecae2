"""Chat and completion requests with steering and monitoring, and their answers.

The request models are vLLM's with our fields added; its handlers do the work. What they generate is steered because
their engine client is ours (`trait_service.engine_link.engine_client`).
"""

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from pydantic_core import to_json
from trait_core.errors import InvalidRequestError
from trait_core.schema import Monitor, Steering
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
from vllm.entrypoints.openai.completion.protocol import CompletionRequest, CompletionResponse
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.orca_metrics import metrics_header
from vllm.entrypoints.serve.utils.sse_keep_alive import with_sse_keep_alive

from trait_service.access.scopes import caller_of, require_steer
from trait_service.engine_link.engine_client import steered
from trait_service.engine_link.run import Run
from trait_service.http.service import TraitService
from trait_service.reading.turns import turns_of
from trait_service.resolving.alias import resolve_request, split_alias
from trait_service.resolving.landmarks import TURNS, named
from trait_service.resolving.monitoring import resolve_monitor, stop_reason
from trait_service.resolving.scopes import selectors_of

METRICS_FORMAT_HEADER = "endpoint-load-metrics-format"
DONE = "data: [DONE]"
ERROR = 'data: {"error"'
CHAT_CHUNK = "chat.completion.chunk"


class SteeredChatRequest(ChatCompletionRequest):
    """vLLM's chat request, with steering and monitoring."""

    steering: Steering | None = None
    monitor: Monitor | None = None


class SteeredCompletionRequest(CompletionRequest):
    """vLLM's completion request, with steering and monitoring."""

    steering: Steering | None = None
    monitor: Monitor | None = None


SteeredRequest = SteeredChatRequest | SteeredCompletionRequest


Handler = Callable[
    [Any, Request],
    Awaitable[AsyncGenerator[str, None] | ChatCompletionResponse | CompletionResponse | ErrorResponse],
]
"""A handler of vLLM's: full response, stream or error."""


async def serve(
    service: TraitService, request: SteeredRequest, raw_request: Request, handler: Handler, stream_object: str
) -> Response:
    """Resolve the request's steering and monitor, let vLLM's handler answer, and add the reports.

    Raises:
        InvalidRequestError: The request cannot be steered as asked.
        ForbiddenError: Its key may not steer.
    """
    check_n(request.n, service.settings.max_n)
    request.model, alias_terms = split_alias(request.model, service.served_names())
    if alias_terms or request.steering is not None or request.monitor is not None:
        require_steer(raw_request, "steering and monitoring")
    resolver = service.resolver_for(caller_of(raw_request))
    resolved = resolve_request(resolver, request.steering, alias_terms)
    monitor = resolve_monitor(resolver, request.monitor) if request.monitor is not None else None
    run = Run(resolved, monitor=monitor) if resolved or monitor else None
    selectors = [*selectors_of(resolved), *([monitor.positions] if monitor and monitor.positions else [])]
    if run is not None and isinstance(request, SteeredChatRequest) and named(selectors, TURNS):
        run.turns = await turns_of(request, raw_request.app.state.online_renderer)
    if run is not None and request.use_beam_search:
        raise InvalidRequestError(
            "steering and monitoring are not supported with use_beam_search", param="use_beam_search"
        )
    with steered(run):
        result = await handler(request, raw_request)
    headers = metrics_header(raw_request.headers.get(METRICS_FORMAT_HEADER, ""))
    if isinstance(result, ErrorResponse):
        return JSONResponse(result.model_dump(), status_code=result.error.code)
    if isinstance(result, BaseModel):
        return FastJSONResponse(_with_report(result, run), headers=headers)
    chunks = result if run is None else stream_with_report(result, run, stream_object)
    interval = float(getattr(raw_request.app.state.args, "sse_keep_alive_interval", 0))
    return StreamingResponse(with_sse_keep_alive(chunks, interval), media_type="text/event-stream")


def check_n(n: int | None, max_n: int) -> None:
    """Refuse too many replies, and fewer than one.

    Raises:
        InvalidRequestError: `n` is outside 1..max_n.
    """
    if n is not None and not 1 <= n <= max_n:
        raise InvalidRequestError(f"n is {n}; allowed: 1..{max_n} (--max-n)", param="n")


async def stream_with_report(
    chunks: AsyncGenerator[str, None], run: Run, stream_object: str
) -> AsyncGenerator[str, None]:
    """The stream of vLLM, each chunk with its tokens' projections if they are monitored.

    The steering report is in the last chunk that has a choice, which is the one with the finish reason: many clients
    read `choices[0]` of every chunk. No report follows a chunk with an error.
    """
    held: dict[str, Any] | None = None
    waits, failed = run.steering is not None, False
    async for chunk in chunks:
        ends, failed = chunk.startswith(DONE), failed or chunk.startswith(ERROR)
        content: dict[str, Any] | None = None
        if not ends and not failed and (run.monitor is not None or (waits and run.ended)):
            content = _with_projections(json.loads(chunk.removeprefix("data: ")), run)
        has_choice = content is not None and bool(content["choices"])
        if held is not None and (has_choice or failed):
            yield _event(held)
        elif waits and not failed and (held is not None or ends):
            waits = False
            yield _event((held or _empty_chunk(stream_object)) | {"steering": run.report().model_dump()})
        held = content if waits and run.ended and has_choice else None
        if held is None:
            yield chunk if content is None else _event(content)


def _empty_chunk(stream_object: str) -> dict[str, Any]:
    """A chunk for the report of a request that was aborted before its first token, to which vLLM streams nothing."""
    choice = {"index": 0, "delta": {}, "text": "", "logprobs": None, "finish_reason": "abort"}
    del choice["text" if stream_object == CHAT_CHUNK else "delta"]
    return {"id": "", "object": stream_object, "created": int(time.time()), "model": "", "choices": [choice]}


def _with_report(response: BaseModel, run: Run | None) -> dict[str, Any]:
    content = response.model_dump()
    if run is None:
        return content
    if run.steering is not None:
        content["steering"] = run.report().model_dump()
    return _with_projections(content, run)


def _with_projections(content: dict[str, Any], run: Run) -> dict[str, Any]:
    """The answer or chunk with what is monitored; a reply that a bound has ended says so in its finish and stop reasons."""
    report = run.monitor_report()
    if report is None or not report.choices:
        return content
    for monitored in report.choices:
        crossed = monitored.crossed
        for choice in content["choices"]:
            if crossed and crossed.action == "stop" and choice["index"] == monitored.index and choice["finish_reason"]:
                choice |= {"finish_reason": "content_filter", "stop_reason": stop_reason(crossed)}
    return {**content, "monitor": report.model_dump()}


def _event(content: dict[str, Any]) -> str:
    return f"data: {_json(content).decode()}\n\n"


def _json(content: Any) -> bytes:
    """As `json.dumps`, in a tenth of its time for long tables of numbers."""
    return to_json(content, inf_nan_mode="constants")


class FastJSONResponse(JSONResponse):
    """A response that may hold hundreds of projections for each token."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return _json(content)
