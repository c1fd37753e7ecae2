"""vLLM's endpoint plugin: our routes, our guards, our engine client."""

import logging
import os
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from trait_core.addresses import is_loopback
from vllm import envs

from trait_service.access.admission import AdmissionGuard, InFlight
from trait_service.access.drain import DrainGuard, ShutdownCause
from trait_service.access.keys import configured_keyring
from trait_service.access.middleware import ApiKeyGuard, BodyGuard
from trait_service.access.observe import Observer
from trait_service.engine.spec import EXTRA_ARGS_KEY
from trait_service.errors import http_exception_response
from trait_service.http.bad_request import KINDS as UNREADABLE
from trait_service.http.bad_request import bad_request_response
from trait_service.http.routes import activations, generation, health, lens, models, patch, steering, vectors
from trait_service.http.service import TraitService
from trait_service.metrics import IN_FLIGHT
from trait_service.settings import ServiceSettings

if TYPE_CHECKING:
    from vllm.tasks import SupportedTask

logger = logging.getLogger(__name__)

ROUTERS = (
    generation.router,
    models.router,
    steering.router,
    vectors.router,
    lens.router,
    activations.router,
    patch.router,
    health.router,
)


class TraitEndpoints:
    """The entry point `vllm.endpoint_plugins: trait_steering`."""

    name = EXTRA_ARGS_KEY
    required_tasks: "tuple[SupportedTask, ...] | None" = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes, which replace vLLM's of the same path, and the guards around every route."""
        args = app.state.args
        for router in ROUTERS:
            app.include_router(router)
        app.add_exception_handler(HTTPException, http_exception_response)
        for kind in UNREADABLE:
            app.add_exception_handler(kind, bad_request_response)
        settings = ServiceSettings.from_args(args)
        in_flight = InFlight(settings.max_in_flight)
        IN_FLIGHT.set_function(lambda: in_flight.count)
        app.add_middleware(BodyGuard, max_bytes=settings.max_body_bytes)
        app.add_middleware(AdmissionGuard, settings=settings, in_flight=in_flight)
        keyring = configured_keyring(api_keys(args), settings.keys, os.environ)
        if keyring:
            app.add_middleware(ApiKeyGuard, keys=keyring)
            # vLLM's own guard knows a few prefixes only; ours covers them, and answers in OpenAI's body. An empty key
            # is how vLLM is told to add none, VLLM_API_KEY notwithstanding.
            args.api_key = [""]
        elif not is_local(args):
            logger.warning("no API key is configured: everyone who reaches this address may use every route")
        app.add_middleware(
            DrainGuard, in_flight=in_flight, cause=ShutdownCause.of(args), seconds=settings.drain_seconds
        )
        app.add_middleware(Observer, log_requests=settings.log_requests)

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Start the service on a running engine.

        Raises:
            RuntimeError: The server has no engine, or an engine without the plugin's worker.
        """
        if engine_client is None:
            raise RuntimeError("trait-steering needs an engine; it cannot serve a render-only server")
        _log_with_vllm()
        state.trait = await TraitService.start(engine_client, state, args)


def _log_with_vllm() -> None:
    """Send our log records where vLLM's go, in its format; vLLM sets up only its own loggers."""
    ours, theirs = logging.getLogger("trait_service"), logging.getLogger("vllm")
    ours.setLevel(theirs.level)
    for handler in theirs.handlers:
        if handler not in ours.handlers:
            ours.addHandler(handler)


def api_keys(args: Namespace) -> list[str]:
    """Keys of `--api-key`, else of `VLLM_API_KEY`."""
    return [key for key in (args.api_key or [envs.VLLM_API_KEY]) if key]


def is_local(args: Namespace) -> bool:
    """True if only this machine can reach the address: loopback, or a Unix socket."""
    return bool(args.uds) or is_loopback(args.host or "")
