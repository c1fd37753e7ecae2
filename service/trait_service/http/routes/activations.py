"""`POST /v1/activations`: pooled activations of a batch of texts, as safetensors."""

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from trait_core.schema import ActivationsRequest
from vllm.entrypoints.serve.utils.api_utils import validate_json_request, with_cancellation

from trait_service.access.scopes import caller_of
from trait_service.errors import NotServedError, TraitRoute
from trait_service.http.service import get_service
from trait_service.resolving.alias import resolve_request, split_alias

router = APIRouter(route_class=TraitRoute)


@router.post("/v1/activations", dependencies=[Depends(validate_json_request)], response_model=None)
@with_cancellation
async def read_activations(request: ActivationsRequest, raw_request: Request) -> Response:
    """Read every input (after generating a reply, if asked), and return the pools in one file."""
    service = get_service(raw_request)
    served = service.served_names()
    base, alias_terms = split_alias(request.model, served)
    if base and base not in served:
        raise NotServedError(f"the model {base[:200]!r} is not served; served: {', '.join(served)}", param="model")
    steering = resolve_request(service.resolver_for(caller_of(raw_request)), request.steering, alias_terms)
    answer = await service.reader.read(request, base, steering, service.info)
    return Response(answer, media_type="application/octet-stream")
