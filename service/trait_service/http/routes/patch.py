"""`POST /v1/patch`: activation patching of one prompt with another, all cells in one call."""

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from trait_core.schema import PatchRequest
from vllm.entrypoints.serve.utils.api_utils import validate_json_request, with_cancellation

from trait_service.errors import NotServedError, TraitRoute
from trait_service.http.service import get_service

router = APIRouter(route_class=TraitRoute)


@router.post("/v1/patch", dependencies=[Depends(validate_json_request)], response_model=None)
@with_cancellation
async def patch(request: PatchRequest, raw_request: Request) -> Response:
    """Run the target with streams of the source in it, one cell at a time; nothing is generated or steered otherwise."""
    service = get_service(raw_request)
    served = service.served_names()
    if request.model and request.model not in served:
        raise NotServedError(
            f"the model {request.model[:200]!r} is not served; served: {', '.join(served)}", param="model"
        )
    report = await service.patcher.patch(request, request.model or None, service.info)
    return Response(report.model_dump_json(), media_type="application/json")
