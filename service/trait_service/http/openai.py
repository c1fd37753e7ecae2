"""Chat and completion requests with steering and monitoring, and their answers.

The request models are vLLM's with our fields added; its handlers do the work. What they generate is steered because
their engine client is ours (`trait_service.engine_link.engine_client`).
"""

import difflib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from trait_core.errors import InvalidRequestError
from trait_core.schema import Monitor, Steering
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
from vllm.entrypoints.openai.completion.protocol import CompletionRequest, CompletionResponse
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.orca_metrics import metrics_header
from vllm.entrypoints.serve.utils.sse_keep_alive import with_sse_keep_alive

from trait_service.access.scopes import caller_of, require_steer
from trait_service.engine.spec import EXTRA_ARGS_KEY, STEERING_FIELDS, reserved_key_message
from trait_service.engine_link.engine_client import Run, steered
from trait_service.http.service import TraitService
from trait_service.resolving.alias import resolve_request, split_alias
from trait_service.resolving.monitoring import resolve_monitor, stop_reason

METRICS_FORMAT_HEADER = "endpoint-load-metrics-format"
DONE = "data: [DONE]"
ERROR = 'data: {"error"'


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
    check_fields(request, service.settings.max_n)
    request.model, alias_terms = split_alias(request.model, service.served_names())
    if alias_terms or request.steering is not None or request.monitor is not None:
        require_steer(raw_request, "steering and monitoring")
    resolver = service.resolver_for(caller_of(raw_request))
    resolved = resolve_request(resolver, request.steering, alias_terms)
    monitor = resolve_monitor(resolver, request.monitor) if request.monitor is not None else None
    run = Run(resolved, monitor=monitor) if resolved or monitor else None
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
        return JSONResponse(_with_report(result, run), headers=headers)
    chunks = result if run is None else stream_with_report(result, run, stream_object)
    interval = float(getattr(raw_request.app.state.args, "sse_keep_alive_interval", 0))
    return StreamingResponse(with_sse_keep_alive(chunks, interval), media_type="text/event-stream")


def check_fields(request: SteeredRequest, max_n: int) -> None:
    """Refuse what vLLM's lenient models would accept and ignore.

    Raises:
        InvalidRequestError: `capture`, a misspelt field of ours, or our reserved key.
    """
    extra = request.model_extra or {}
    if extra.get("capture") is not None:
        raise InvalidRequestError(
            "`capture` on chat and completions is not supported; use POST /v1/activations", param="capture"
        )
    for name in extra:
        near = difflib.get_close_matches(name.lower(), STEERING_FIELDS, n=1, cutoff=0.7)
        if near and name not in STEERING_FIELDS:
            raise InvalidRequestError(f"unknown field {name[:80]!r}: did you mean {near[0]!r}?", param=name)
    if EXTRA_ARGS_KEY in (request.vllm_xargs or {}):
        raise InvalidRequestError(reserved_key_message("vllm_xargs"), param="vllm_xargs")
    if request.n is not None and not 1 <= request.n <= max_n:
        raise InvalidRequestError(f"n is {request.n}; allowed: 1..{max_n} (--max-n)", param="n")


async def stream_with_report(
    chunks: AsyncGenerator[str, None], run: Run, stream_object: str
) -> AsyncGenerator[str, None]:
    """The stream of vLLM, each chunk with its tokens' projections if they are monitored.

    One more chunk with the steering report precedes its `[DONE]`, unless an error chunk came before.
    """
    head: dict[str, Any] = {}
    failed = False
    async for chunk in chunks:
        if chunk.startswith(DONE):
            if not failed and run.steering is not None:
                yield _event({**head, "choices": [], "steering": run.report().model_dump()})
            yield chunk
            continue
        if chunk.startswith(ERROR):
            failed = True
            yield chunk
            continue
        if head and run.monitor is None:
            yield chunk
            continue
        content = json.loads(chunk.removeprefix("data: "))
        head = head or {name: content[name] for name in ("id", "created", "model")} | {"object": stream_object}
        yield chunk if run.monitor is None else _event(_with_projections(content, run))


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
    return f"data: {json.dumps(content)}\n\n"
