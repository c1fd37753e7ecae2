"""The command `trait-service`: vLLM's server, set up to steer.

Nothing heavy is imported before the environment is set: vLLM reads it on import.
"""

import logging
import os
from argparse import Namespace
from pathlib import Path
from typing import Annotated, Any

import typer
from trait_core.console import EXIT_USAGE, complain, fail

from trait_service.access.keys import KeysError, configured_keyring
from trait_service.access.keys_cli import app as keys_app
from trait_service.environment import load_plugins
from trait_service.launch import launch_arguments, refusals, refused_flags
from trait_service.models.cli import app as models_app
from trait_service.settings import ARGS_ENTRY, ServiceSettings
from trait_service.verify.command import verify

logger = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Serve a language model that can be steered.")


app.add_typer(models_app, name="model")
app.add_typer(keys_app, name="key")
app.command()(verify)


@app.callback()
def _commands() -> None:
    """Serve a language model that can be steered."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Hugging Face id, folder, or smollm2 (comes with the package).")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help="Key that opens every route (may be given several times); others see it in the process list."
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(envvar="TRAIT_KEYS_FILE", help="File of API keys with scopes: see `trait-service key create`."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve an address that others reach, without any API key.")
    ] = False,
    vectors: Annotated[
        Path | None, typer.Option(help="Folder of the vector registry [default: $TRAIT_HOME/vectors].")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, ... [default on a CPU: float32; bfloat16 for INT4].")
    ] = None,
    max_model_len: Annotated[int | None, typer.Option(min=1)] = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="Requests that run at once.")] = None,
    max_relative_dose: Annotated[float, typer.Option(min=0.0, help="Largest |a| / residual norm on one layer.")] = 2.0,
    max_total_dose: Annotated[
        float | None, typer.Option(min=0.0, help="Largest such sum over all layers [default: no limit].")
    ] = None,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Requests at once, waiting ones included.")] = 2048,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Of one key; its own limit goes before [default: no limit].")
    ] = None,
    drain_seconds: Annotated[
        float, typer.Option(min=0.0, help="That running requests have to finish after SIGTERM or SIGINT.")
    ] = 25.0,
    log_requests: Annotated[
        bool,
        typer.Option("--log-requests", help="A line of JSON for each request: id, key's name, route, status, time."),
    ] = False,
    bank_rows: Annotated[int, typer.Option(min=1, help="Distinct directions that live requests may use.")] = 4096,
    enforce_eager: Annotated[
        bool | None,
        typer.Option(
            "--enforce-eager/--compile", help="Run eager, or compile [default: compile, where a compiler is]."
        ),
    ] = None,
) -> None:
    """Serve MODEL with steering; any further option is vLLM's own (`vllm serve --help=all`)."""
    problems = refused_flags(context.args)
    if problems:
        _fail(problems)
    options = {"--host": host, "--port": port, "--max-model-len": max_model_len, "--max-num-seqs": max_num_seqs}
    args = launch_arguments(model, context.args, options, dtype=dtype, enforce_eager=enforce_eager, bank_rows=bank_rows)
    args.api_key = api_key or args.api_key
    keys = keys.expanduser() if keys is not None else None
    problems = refusals(args) + open_door(args, keys, insecure=insecure)
    if problems:
        _fail(problems)
    service_settings: dict[str, Any] = {
        "keys": keys,
        "max_relative_dose": max_relative_dose,
        "max_total_dose": max_total_dose,
        "max_in_flight": max_in_flight,
        "requests_per_minute": requests_per_minute,
        "drain_seconds": drain_seconds,
        "log_requests": log_requests,
    }
    if vectors is not None:
        service_settings["vectors"] = vectors.expanduser()
    setattr(args, ARGS_ENTRY, ServiceSettings(**service_settings))
    _run(args)


def open_door(args: Namespace, keys: Path | None, *, insecure: bool) -> list[str]:
    """Why the service must not listen where it was told to: keys that cannot be read, or none where others reach it."""
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

    from trait_service.access.drain import Ending  # noqa: PLC0415 - imports vLLM

    load_plugins()
    uvloop.run(run_server(args))
    if not Ending.of(args).signals:
        fail("the engine has died: see the log above", label="trait-service")


def _fail(problems: list[str]) -> None:
    for problem in problems:
        complain(problem, label="trait-service")
    raise typer.Exit(EXIT_USAGE)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
