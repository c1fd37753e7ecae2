"""The service without a server: its ASGI application on an event loop in a thread of this process.

Everything is what `trait-service serve` starts: vLLM's arguments, its engine client, its application, our plugin in it.
Only the socket is missing; `trait_steering.LocalEngine` calls the application directly.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from multiprocessing import resource_tracker
from types import SimpleNamespace
from typing import Any

from pydantic import ValidationError
from starlette.types import ASGIApp
from trait_core.errors import InvalidRequestError, SteeringFailedError, first_fault

from trait_service.engine.errors import UnsupportedEngineError
from trait_service.engine.settings import EngineSettings
from trait_service.environment import load_plugins
from trait_service.launch import launch_arguments, refusals, refused_flags
from trait_service.preflight import check_model
from trait_service.settings import ARGS_ENTRY, ServiceSettings

ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",  # a notebook or a study has its own output
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # this process has threads, which a fork would not copy
}
"""Variables beside those of `trait-service serve`; one that is set already is kept."""

QUIET_FLAGS = ("--no-use-tqdm-on-load",)


class InProcessService:
    """One engine and the service's application on it.

    vLLM runs the engine core in a child process; the application runs on an event loop in a thread of this process.

    Args:
        model: Hugging Face id, folder, or `smollm2`.
        further: vLLM's own flags, as words of a command line.
        options: Flags of vLLM with their values; None leaves one out.
        settings: Limits and the registry's folder.
        dtype: As `trait-service serve --dtype`.
        enforce_eager: As `trait-service serve --enforce-eager/--compile`; None compiles where there is a compiler.
        bank_rows: As `trait-service serve --bank-rows`.
        allow_untested_vllm: As `trait-service serve --allow-untested-vllm`.
        layer_rules: As `trait-service serve --layer-rule`, each.
        hook_points: As `trait-service serve --hook-points`, each.

    Attributes:
        app: The ASGI application; call it on `loop`.
        loop: Runs in a thread of its own until `close`.
        api_key: The one key that the application takes.

    Raises:
        InvalidRequestError: vLLM or the plugin does not take the arguments.
        ModelError: The model cannot be had.
        SteeringFailedError: The engine did not start.
    """

    app: ASGIApp
    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        model: str,
        further: Sequence[str] = (),
        options: Mapping[str, object | None] | None = None,
        settings: ServiceSettings | None = None,
        *,
        dtype: str | None = None,
        enforce_eager: bool | None = None,
        bank_rows: int = 4096,
        allow_untested_vllm: bool = False,
        layer_rules: Sequence[str] = (),
        hook_points: Sequence[str] = (),
    ) -> None:
        before = dict(os.environ)
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.api_key = secrets.token_hex(16)
        engine = _engine_settings(
            bank_rows=bank_rows,
            allow_untested_vllm=allow_untested_vllm,
            layer_rule=list(layer_rules),
            hook_points=list(hook_points),
        )
        args = _arguments(model, further, options or {}, engine, dtype, enforce_eager)
        args.api_key = [self.api_key]
        setattr(args, ARGS_ENTRY, settings or ServiceSettings())
        load_plugins()
        self._stop: asyncio.Event | None = None
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, args=(args, started), name="trait-service", daemon=True)
        self._thread.start()
        try:
            started.result()
        except Exception as error:  # vLLM raises whatever its loader met
            self._thread.join()
            raise SteeringFailedError(f"the engine did not start with {model}: {error}") from error
        except BaseException:  # an interrupt while it starts
            started.cancel()
            raise
        finally:
            changed = {name for name, value in os.environ.items() if before.get(name) != value}
            self._environment = {name: before.get(name) for name in changed}

    @property
    def running(self) -> bool:
        """True while the application takes requests, until it is closed."""
        return self._stop is not None

    def close(self) -> None:
        """Stop the engine and free its memory; nothing happens the second time."""
        stop, self._stop = self._stop, None
        if stop is not None:
            self.loop.call_soon_threadsafe(stop.set)
            self._thread.join()
            for name, value in self._environment.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    def _serve(self, args: Namespace, started: "Future[None]") -> None:
        import uvloop  # noqa: PLC0415 - comes with vLLM

        # Inherited by the engine's processes: an interrupt of a notebook's cell or a terminal must not end them.
        resource_tracker.ensure_running()  # multiprocessing unblocks the signal when it starts this
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        loop = uvloop.new_event_loop()
        try:
            loop.run_until_complete(self._run(args, started))
        finally:
            loop.close()

    async def _run(self, args: Namespace, started: "Future[None]") -> None:
        try:
            async with _engine(args) as engine:
                self.app = await _application(engine, args)
                self.loop = asyncio.get_running_loop()
                self._stop = stop = asyncio.Event()
                if started.set_running_or_notify_cancel():
                    started.set_result(None)
                    await stop.wait()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)
        finally:
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)


def _engine_settings(**fields: Any) -> EngineSettings:
    try:
        return EngineSettings(**fields)
    except ValidationError as error:
        fault = first_fault(error)
        raise InvalidRequestError(f"{fault.value!r}: {fault.reason}", param=str(fault.loc[0])) from error


def _arguments(
    model: str,
    further: Sequence[str],
    options: Mapping[str, object | None],
    engine: EngineSettings,
    dtype: str | None,
    enforce_eager: bool | None,
) -> Namespace:
    problems = refused_flags(list(further))
    if problems:
        raise InvalidRequestError("; ".join(problems), param="arguments")
    check_model(model, further)
    try:
        args = launch_arguments(
            model,
            [*QUIET_FLAGS, *further],
            options,
            engine,
            dtype=dtype,
            enforce_eager=enforce_eager,
        )
    except UnsupportedEngineError as error:
        raise InvalidRequestError(str(error), param="arguments") from error
    except SystemExit as error:  # vLLM's parser has written why to stderr
        raise InvalidRequestError(f"vLLM does not take the arguments {list(further)}", param="arguments") from error
    problems = refusals(args)
    if problems:
        raise InvalidRequestError("; ".join(problems), param="arguments")
    return args


@contextlib.asynccontextmanager
async def _engine(args: Namespace) -> AsyncIterator[Any]:
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client  # noqa: PLC0415

    building = build_async_engine_client(args)
    with _main_stays_out_of_children():
        engine = await building.__aenter__()
    try:
        yield engine
    finally:
        await building.__aexit__(None, None, None)


async def _application(engine: Any, args: Namespace) -> ASGIApp:
    """Build vLLM's application with our plugin in it, as its own launcher does before it listens."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state  # noqa: PLC0415
    from vllm.entrypoints.launchers.app import build_app  # noqa: PLC0415

    tasks = await engine.get_supported_tasks()
    app = build_app(args, tasks, engine.model_config)
    await init_app_state(engine, app.state, args, tasks)
    app.state.server = SimpleNamespace(should_exit=False, force_exit=False)  # vLLM's handler of a dead engine sets it
    return app


@contextlib.contextmanager
def _main_stays_out_of_children() -> Iterator[None]:
    """Hide the script from `multiprocessing`, which would run it again in every process that it spawns.

    The engine's processes need nothing of it. Without this, a script would need `if __name__ == "__main__":`.
    """
    main = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        main.update(hidden)
