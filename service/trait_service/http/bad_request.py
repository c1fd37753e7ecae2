"""Malformed requests that make vLLM raise while parsing: the sender's fault, not the server's.

Some of its validators and renderers assume the shape of a value, and raise AttributeError or IndexError for another
shape. Unanswered, such an error is a 500 and closes the connection under the client's next request.
"""

import logging
import traceback
from pathlib import Path

from fastapi import Request
from starlette.responses import Response
from vllm.entrypoints.serve.exception_handling.utils import sanitize_message

from trait_service.access.admission import engine_was_asked
from trait_service.errors import error_response

logger = logging.getLogger(__name__)

KINDS: tuple[type[Exception], ...] = (AttributeError, LookupError)

OURS = frozenset({"trait_service", "trait_core"})
"""Packages whose errors are never the sender's fault."""


async def bad_request_response(_request: Request, error: Exception) -> Response:
    """400 if vLLM has not asked the engine for anything yet, else 500; the log gives the place and never a value."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    logger.error("%s at %s:%s", type(error).__name__, place.filename, place.lineno)
    said = sanitize_message(f"{type(error).__name__}: {error}")
    if engine_was_asked() or not OURS.isdisjoint(Path(place.filename).parts):
        return error_response(said, 500)
    return error_response(
        f"the request cannot be read: a value does not have the shape that its field needs ({said})", 400
    )
