"""vLLM's endpoint plugin: our routes, our guards, our engine client."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from vllm import envs

from trait_service.engine.spec import EXTRA_ARGS_KEY
from trait_service.http.errors import http_exception_response
from trait_service.http.guard import ApiKeyGuard, BodyGuard
from trait_service.http.routes import activations, chat, completions, health, models, steering, vectors
from trait_service.http.service import TraitService
from trait_service.http.settings import ServiceSettings

if TYPE_CHECKING:
    from vllm.tasks import SupportedTask

ROUTERS = (
    chat.router,
    completions.router,
    models.router,
    steering.router,
    vectors.router,
    activations.router,
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
        app.add_middleware(BodyGuard, max_bytes=ServiceSettings.from_args(args).max_body_bytes)
        if keys := api_keys(args):
            app.add_middleware(ApiKeyGuard, keys=keys)
            # vLLM's own guard knows a few prefixes only; ours covers them, and answers in OpenAI's body. An empty key
            # is how vLLM is told to add none, VLLM_API_KEY notwithstanding.
            args.api_key = [""]

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Start the service on a running engine.

        Raises:
            RuntimeError: There is no engine, or one without the plugin's worker.
        """
        if engine_client is None:
            raise RuntimeError("trait-steering needs an engine; it cannot serve a render-only server")
        state.trait = await TraitService.start(engine_client, state, args)


def api_keys(args: Namespace) -> list[str]:
    """Keys of `--api-key`, else of `VLLM_API_KEY`."""
    return [key for key in (args.api_key or [envs.VLLM_API_KEY]) if key]
