"""The service's errors, and their conversion to OpenAI's error body."""

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from trait_core.errors import (
    InvalidRequestError,
    SteeringFailedError,
    TraitError,
    UnknownVectorError,
    VectorFileError,
    is_union_branch,
)
from trait_core.schema import ErrorBody, ErrorDetail
from vllm.entrypoints.serve.exception_handling.utils import sanitize_message
from vllm.exceptions import VLLMClientError

from trait_service.registry.registry import StorageError, VectorInUseError

logger = logging.getLogger(__name__)

MAX_MESSAGE = 2000
MAX_INPUT = 120
MAX_REPORTED = 5

_KINDS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    409: "ConflictError",
    413: "RequestTooLargeError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
    507: "InsufficientStorageError",
}


class ForbiddenError(TraitError):
    """The key is valid but does not allow the request (403)."""


class NotServedError(InvalidRequestError):
    """The model that the request names is not served (404)."""


class AbortedError(TraitError):
    """An operator aborted the request before the engine had started or, for a reading, finished it (503)."""


class PromptRefusedError(InvalidRequestError, VLLMClientError):
    """A prompt that the engine must not run; vLLM's own routes answer with 400 as well."""

    def __init__(self, message: str, param: str | None = None) -> None:
        InvalidRequestError.__init__(self, message, param)


def error_response(message: str, status: int, param: str | None = None) -> JSONResponse:
    """OpenAI's error body; the message is bounded and can always be encoded."""
    detail = ErrorDetail(
        message=_encodable(message)[:MAX_MESSAGE],
        type=_KINDS.get(status, "BadRequestError" if status < 500 else "InternalServerError"),
        param=None if param is None else _encodable(param)[:200],
        code=status,
    )
    return JSONResponse(ErrorBody(error=detail).model_dump(), status_code=status)


def response_of(error: TraitError, *, unknown_vector: int = 400) -> JSONResponse:
    """The answer to one of our own errors."""
    match error:
        case UnknownVectorError():
            status = unknown_vector
        case ForbiddenError():
            status = 403
        case NotServedError():
            status = 404
        case InvalidRequestError() | VectorFileError():
            status = 400
        case VectorInUseError():
            status = 409
        case StorageError():
            status = 507
            logger.error("%s", error)
        case AbortedError():
            status = 503
        case _:
            status = 500
            expected = isinstance(error, SteeringFailedError)
            logger.error("a request failed: %s", error, exc_info=None if expected else error)
            return error_response(sanitize_message(str(error)), status)
    return error_response(str(error), status, error.param if isinstance(error, InvalidRequestError) else None)


class TraitRoute(APIRoute):
    """A route whose errors are answered in OpenAI's body."""

    unknown_vector = 400

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with our errors answered; vLLM's own go to its handlers."""
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                return validation_response(error)
            except TraitError as error:
                return response_of(error, unknown_vector=self.unknown_vector)

        return answer


class RegistryRoute(TraitRoute):
    """A route whose resource is a vector: an unknown one is 404."""

    unknown_vector = 404


def validation_response(error: RequestValidationError) -> JSONResponse:
    """400 with the field, the rule it broke and the value."""
    # vLLM raises some with bare texts for entries.
    found = [entry if isinstance(entry, dict) else {"msg": str(entry)} for entry in error.errors()]
    lines = [_describe(entry) for entry in found[:MAX_REPORTED]]
    if len(found) > MAX_REPORTED:
        lines.append(f"and {len(found) - MAX_REPORTED} more")
    param = _field(found[0]) if found else None
    return error_response("; ".join(lines) or "the request is not valid", 400, param)


async def http_exception_response(_request: Request, error: Exception) -> Response:
    """Unknown paths and methods, which Starlette itself raises."""
    if not isinstance(error, HTTPException):
        return error_response("internal error", 500)
    return error_response(str(error.detail), error.status_code)


def _describe(entry: dict[str, Any]) -> str:
    if entry.get("type") == "json_invalid":
        return f"the body is not JSON, from character {entry['loc'][-1]}"
    message = str(entry.get("msg", "not valid")).removeprefix("Value error, ")
    value = entry.get("input")
    shown = isinstance(value, str | int | float | bool) and entry.get("type") != "missing"
    return f"{_field(entry) or 'body'}: {message}" + (f" (got {_bounded(value)})" if shown else "")


def _field(entry: dict[str, Any]) -> str | None:
    """`steering.terms[0].layers`, without the names of union members that pydantic puts into `loc`."""
    text = ""
    for part in entry.get("loc", ()) if entry.get("type") != "json_invalid" else ():
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "body" and not is_union_branch(part):
            text += f".{part}" if text else part
    return text or None


def _bounded(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_INPUT else f"{text[:MAX_INPUT]}..."


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
