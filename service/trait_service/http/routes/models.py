"""`GET /v1/models`: the base model, its adapters, and an alias for every registered vector."""

from typing import Any

from fastapi import APIRouter
from vllm.entrypoints.serve.engine.protocol import ModelCard, ModelPermission

from trait_service.errors import TraitRoute
from trait_service.http.service import Service

router = APIRouter(route_class=TraitRoute)


@router.get("/v1/models")
async def list_models(service: Service) -> dict[str, Any]:
    """The alias shown steers with coefficient 1; any other coefficient is served as well."""
    served = await service.models.show_available_models()
    base = served.data[0]
    served.data += [
        ModelCard(
            id=f"{base.id}+{vector.name}@1",
            root=vector.sha256,
            parent=base.id,
            max_model_len=base.max_model_len,
            permission=[ModelPermission()],
        )
        for vector in service.registry.all()
    ]
    listing: dict[str, Any] = served.model_dump()
    return listing
