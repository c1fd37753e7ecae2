"""`/v1/health/live`: the process answers. `/v1/health/ready`: the engine does. Both answer without a key."""

import logging

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from vllm.v1.engine.exceptions import EngineDeadError

from trait_service.errors import TraitRoute, error_response
from trait_service.http.service import Service

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/health", route_class=TraitRoute)


@router.get("/live")
async def live() -> dict[str, str]:
    """Answer, whatever the state of the engine."""
    return {"status": "live"}


@router.get("/ready", response_model=None)
async def ready(service: Service) -> JSONResponse:
    """200 while the engine takes requests, else 503."""
    try:
        await service.client.check_health()
    except EngineDeadError as error:
        logger.warning("the engine does not answer: %s", error)
        return error_response("the engine does not answer", 503)
    return JSONResponse({"status": "ready"})
