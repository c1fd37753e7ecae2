"""`/v1/vectors[/NAME]`: the registry of steering vectors."""

import asyncio
import base64
import hashlib
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from pydantic_core import from_json
from trait_core.errors import InvalidRequestError, first_fault
from trait_core.schema import ServiceInfo, VectorInfo, VectorList, VectorMetadata, VectorPointer, VectorUpload
from trait_core.storage import sha256_of
from trait_core.vectors.file import VectorFile
from trait_core.vectors.transfer import apply_to, check_shape, is_of_another_model

from trait_service.errors import RegistryRoute
from trait_service.http.service import Service

BYTES = "application/octet-stream"

router = APIRouter(prefix="/v1/vectors", route_class=RegistryRoute)


@router.get("")
async def list_vectors(service: Service, controls: bool = False) -> VectorList:
    """Every registered vector, by name; with `controls` also the random directions that sweeps register."""
    registry = service.registry
    vectors = await asyncio.to_thread(registry.all, controls=controls)
    return VectorList(revision=registry.revision, vectors=[vector.info() for vector in vectors])


@router.get("/{name}", response_model=None)
async def get_vector(name: str, service: Service, accept: Annotated[str, Header()] = "*/*") -> Response:
    """A vector's metadata; with `Accept: application/octet-stream` its file. `name` may be `sha256:...`."""
    vector = await asyncio.to_thread(service.registry.get, name)
    if BYTES in accept:
        return Response(await asyncio.to_thread(service.registry.read, vector), media_type=BYTES)
    return JSONResponse(vector.info().model_dump(mode="json"))


@router.get("/{name}/file", response_class=Response)
async def get_vector_file(name: str, service: Service) -> Response:
    """A vector's file, also behind a load balancer that drops the `Accept` header."""
    vector = await asyncio.to_thread(service.registry.get, name)
    return Response(await asyncio.to_thread(service.registry.read, vector), media_type=BYTES)


@router.put("/{name}", status_code=201)
async def put_vector(
    name: str,
    request: Request,
    service: Service,
    allow_other_model: bool = False,
    content_type: Annotated[str, Header()] = BYTES,
    content_digest: Annotated[str | None, Header()] = None,
) -> VectorInfo:
    """Register a vector file under a name, as its newest version.

    With the JSON body `{"vector": "NAME or sha256:..."}` the name then points to a registered file: an alias, or the return
    to an earlier version; `{"file": "BASE64", "sha256": "sha256:..."}` is a file, for balancers that let only JSON
    through. `Content-Digest: sha-256=:BASE64:` (RFC 9530) is checked if present.
    `allow_other_model` accepts another model's where width and number of layers agree (a base model's, say). What is
    registered then is a file for this model, which names the other one in its metadata (`extracted_on`).
    """
    data = await request.body()
    check_digest(content_digest, data)
    if content_type.partition(";")[0].strip().lower() == "application/json":
        body = read_json(data)
        if isinstance(body, VectorPointer):
            vector = await asyncio.to_thread(service.registry.point, name, body.vector)
            return vector.info()
        data, allow_other_model = body.file, allow_other_model or body.allow_other_model
        if sha256_of(data) != body.sha256:
            raise InvalidRequestError(
                f"the file's sha256 is {sha256_of(data)}, not {body.sha256}: it was damaged in transit", param="sha256"
            )
    file = await asyncio.to_thread(VectorFile.from_bytes, data)
    check_fits(file.metadata, service.info, allow_other_model=allow_other_model)
    if is_of_another_model(file.metadata, service.info):
        data = await asyncio.to_thread(lambda: apply_to(file, service.info).to_bytes())
    vector = await asyncio.to_thread(service.registry.put, name, data)
    return vector.info()


@router.delete("/{name}", status_code=204)
async def delete_vector(name: str, service: Service, even_if_used: bool = False) -> Response:
    """Delete a vector and its versions: 409 while requests of this service use it, unless `even_if_used`."""
    await asyncio.to_thread(service.registry.delete, name, even_if_used=even_if_used)
    return Response(status_code=204)


def read_json(body: bytes) -> VectorPointer | VectorUpload:
    """The JSON body of `PUT`: a file if it has one.

    Raises:
        InvalidRequestError: It is neither a `VectorPointer` nor a `VectorUpload`.
    """
    try:
        fields = from_json(body)
        wanted = VectorUpload if isinstance(fields, dict) and "file" in fields else VectorPointer
        return wanted.model_validate_json(body)
    except ValidationError as error:
        fault = first_fault(error, whole="body")
        raise InvalidRequestError(
            f'{fault}. Send {{"vector": "NAME or sha256:..."}}, or {{"file": "BASE64", "sha256": "sha256:..."}}',
            fault.where,
        ) from error
    except ValueError as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error


def check_digest(header: str | None, data: bytes) -> None:
    """Refuse bytes that are not those that the sender hashed.

    Raises:
        InvalidRequestError: The header's sha-256 is not that of the body; other digests are not read.
    """
    for entry in (header or "").split(","):
        algorithm, _, value = entry.strip().partition("=")
        if algorithm.lower() != "sha-256":
            continue
        expected = f":{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"
        if value != expected:
            raise InvalidRequestError(
                f"the body's sha-256 is {expected}; Content-Digest says {value[:80]!r}: it was damaged in transit",
                param="Content-Digest",
            )


def check_fits(metadata: VectorMetadata, info: ServiceInfo, *, allow_other_model: bool) -> None:
    """Refuse a vector that was made for another model.

    Raises:
        InvalidRequestError: Width, number of layers, config or weights differ, or the scale of a layer is missing.
    """
    check_shape(metadata, info)
    if is_of_another_model(metadata, info) and not allow_other_model:
        differing = "config_digest" if metadata.config_digest != info.config_digest else "weights_digest"
        of_file, of_model = (getattr(side, differing) for side in (metadata, info))
        raise InvalidRequestError(
            f"the vector was made for {metadata.model[:200]!r} ({differing} {of_file}); this service runs "
            f"{info.model!r} ({of_model}). If the models are close enough, make a file for this one with `trait-extract "
            "apply`, or add ?allow_other_model=true: the registered file names both",
            param=differing,
        )
    for layer, evidence in metadata.layers.items():
        if evidence.residual_norm <= 0:
            raise InvalidRequestError(
                f"layer {layer} states a residual norm of {evidence.residual_norm}; it must be above 0",
                param="residual_norm",
            )
