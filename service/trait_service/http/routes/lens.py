"""`GET /v1/vectors/NAME/lens` and `POST /v1/lens`: the tokens that a vector promotes and suppresses."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query
from trait_core.schema import Layer, LensRequest, VectorLens
from trait_core.schema.lens import TopK
from trait_core.storage import sha256_of
from trait_core.vectors.file import VectorFile

from trait_service.errors import RegistryRoute
from trait_service.http.routes.vectors import check_fits
from trait_service.http.service import Service

router = APIRouter(route_class=RegistryRoute)


@router.get("/v1/vectors/{name}/lens")
async def read_vector(
    name: str, service: Service, layer: Annotated[list[Layer] | None, Query()] = None, top_k: TopK = 20
) -> VectorLens:
    """The tokens that a registered vector moves most, on its chosen layer or on each `layer`; nothing is generated."""
    vector = await asyncio.to_thread(service.registry.get, name)
    file = VectorFile.from_bytes(await asyncio.to_thread(service.registry.read, vector))
    return await service.lens.read(file, vector.sha256, layer, top_k)


@router.post("/v1/lens")
async def read_file(body: LensRequest, service: Service) -> VectorLens:
    """The same for a vector file that is not registered."""
    file = await asyncio.to_thread(VectorFile.from_bytes, body.file)
    check_fits(file.metadata, service.info, allow_other_model=body.allow_other_model)
    return await service.lens.read(file, sha256_of(body.file), body.layers, body.top_k)
