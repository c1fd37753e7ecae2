"""The command `trait-service`: vLLM's server, set up to steer.

Nothing heavy is imported before the environment is set: vLLM reads it on import.
"""

import logging
import os
from argparse import Namespace
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import BaseModel, ConfigDict, Field
from trait_core.console import EXIT_FAILED, EXIT_USAGE, complain, fail, run

from trait_service.access.keys import KeysError, configured_keyring
from trait_service.access.keys_cli import app as keys_app
from trait_service.engine.errors import UnsupportedEngineError
from trait_service.engine.settings import EngineSettings
from trait_service.environment import check_version, load_plugins
from trait_service.launch import Runner, launch_arguments, refusals, refused_flags
from trait_service.models.bundled import MODELS, ModelError
from trait_service.models.cli import app as models_app
from trait_service.options import option_of, settings_as_options
from trait_service.preflight import check_folders, check_listening, check_model
from trait_service.settings import ARGS_ENTRY, ServiceSettings
from trait_service.verify.command import verify

logger = logging.getLogger(__name__)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Serve a language model that can be steered.",
)


app.add_typer(models_app, name="model")
app.add_typer(keys_app, name="key")
app.command()(verify)


@app.callback()
def _commands() -> None:
    """Serve a language model that can be steered."""


class ServerOptions(BaseModel):
    """Options that are handed to vLLM under the same names."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port to listen on."""

    dtype: str | None = None
    """float32, bfloat16, ... (default on a CPU: float32; bfloat16 for INT4)."""

    max_model_len: Annotated[int | None, Field(ge=1)] = None
    """Tokens of a prompt and its reply together (default: the model's own limit)."""

    max_num_seqs: Annotated[int | None, Field(ge=1)] = None
    """Requests that run at once."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@settings_as_options
def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help=f"Hugging Face id, folder, or a bundled model: {', '.join(MODELS)}.")],
    server: ServerOptions,
    service: ServiceSettings,
    engine: EngineSettings,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help="Key that opens every route (may be given several times); others see it in the process list."
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen on an address that other machines reach, without any API key.")
    ] = False,
    enforce_eager: Annotated[
        bool | None,
        typer.Option(
            "--enforce-eager/--compile",
            help="Run eagerly, or compile the model (default: compile if a compiler is installed).",
        ),
    ] = None,
    runner: Annotated[
        Runner,
        typer.Option(help="Model runner on a GPU: vLLM's own choice with asynchronous scheduling, or V1, synchronous."),
    ] = "auto",
) -> None:
    """Serve MODEL with steering; any further option is vLLM's own (`vllm serve --help=all`)."""
    problems = refused_flags(context.args)
    if problems:
        _fail(problems)
    try:
        check_version(engine)
        if problems := check_listening(server.host, server.port, context.args) + check_folders(service.vectors):
            _fail(problems, EXIT_FAILED)
        check_model(model, context.args)
        args = server_arguments(
            model, context.args, server, service, engine, enforce_eager=enforce_eager, runner=runner
        )
    except ModelError as error:
        fail(error, label="trait-service")
    except UnsupportedEngineError as error:
        _fail([str(error)])
    args.api_key = api_key or args.api_key
    problems = refusals(args) + open_door(args, service.keys, insecure=insecure)
    if problems:
        _fail(problems)
    _run(args)


def server_arguments(
    model: str,
    further: list[str],
    server: ServerOptions,
    service: ServiceSettings,
    engine: EngineSettings,
    *,
    enforce_eager: bool | None,
    runner: Runner = "auto",
) -> Namespace:
    """The arguments of vLLM's server: its own, the engine's settings among them, and the settings of our endpoint plugin.

    Raises:
        ModelError: The model's folder does not exist, or a bundled model cannot be fetched.
        UnsupportedEngineError: Another vLLM than steering was written for, or a platform without a worker.
    """
    options = {option_of(name): value for name, value in server.model_dump(exclude={"dtype"}).items()}
    args = launch_arguments(
        model, further, options, engine, dtype=server.dtype, enforce_eager=enforce_eager, runner=runner
    )
    setattr(args, ARGS_ENTRY, service)
    return args


def open_door(args: Namespace, keys: Path | None, *, insecure: bool) -> list[str]:
    """List the reasons why the service must not listen: unreadable keys, or no key on an address that others reach."""
    from trait_service.http.plugin import api_keys, is_local  # noqa: PLC0415 - imports vLLM

    try:
        keyring = configured_keyring(api_keys(args), keys, os.environ)
    except KeysError as error:
        return [str(error)]
    if keyring or insecure or is_local(args):
        return []
    remedy = "make one with `trait-service key create` and give --keys, or --insecure where the network is trusted"
    return [f"other machines reach --host {args.host or '(all)'} and no API key is configured: {remedy}"]


# ------------------------------------------------------------------------------------------------------ vLLM itself


def _run(args: Namespace) -> None:
    import uvloop  # noqa: PLC0415 - comes with vLLM
    from vllm.entrypoints.launchers.api_server.entry import run_server  # noqa: PLC0415

    from trait_service.access.drain import ShutdownCause  # noqa: PLC0415 - imports vLLM

    load_plugins()
    uvloop.run(run_server(args))
    if not ShutdownCause.of(args).signals:
        fail("the engine has died: see the log above", label="trait-service")


def _fail(problems: list[str], code: int = EXIT_USAGE) -> NoReturn:
    for problem in problems:
        complain(problem, label="trait-service")
    raise typer.Exit(code)


def main() -> None:
    """Entry point of the console script."""
    run(app, label="trait-service")


if __name__ == "__main__":
    main()
