"""`POST /v1/chat/completions` and `POST /v1/completions`: vLLM's, with `steering` and `monitor`."""

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from trait_core.chat_templates import no_chat_template
from vllm.entrypoints.serve.utils.api_utils import load_aware_call, validate_json_request, with_cancellation

from trait_service.errors import TraitRoute
from trait_service.http.openai import CHAT_CHUNK, SteeredChatRequest, SteeredCompletionRequest, serve
from trait_service.http.service import get_service

router = APIRouter(route_class=TraitRoute)


@router.post("/v1/chat/completions", dependencies=[Depends(validate_json_request)], response_model=None)
@with_cancellation
@load_aware_call
async def create_chat_completion(request: SteeredChatRequest, raw_request: Request) -> Response:
    """Chat, steered as the request asks."""
    service = get_service(raw_request)
    if request.chat_template is None and not service.info.has_chat_template:
        raise no_chat_template(service.info.model)
    handler = raw_request.app.state.openai_serving_chat.create_chat_completion
    return await serve(service, request, raw_request, handler, CHAT_CHUNK)


@router.post("/v1/completions", dependencies=[Depends(validate_json_request)], response_model=None)
@with_cancellation
@load_aware_call
async def create_completion(request: SteeredCompletionRequest, raw_request: Request) -> Response:
    """Text completion, steered as the request asks."""
    handler = raw_request.app.state.openai_serving_completion.create_completion
    return await serve(get_service(raw_request), request, raw_request, handler, "text_completion")
