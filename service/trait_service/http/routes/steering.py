"""`GET /v1/steering`: the model, the operations and the limits of this service."""

from fastapi import APIRouter
from trait_core.schema import ServiceInfo

from trait_service.errors import TraitRoute
from trait_service.http.service import Service

router = APIRouter(route_class=TraitRoute)


@router.get("/v1/steering")
async def show_steering(service: Service) -> ServiceInfo:
    """The served model's shape and residual norms, operations, limits and versions."""
    return await service.describe()
