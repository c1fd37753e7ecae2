"""The command `trait-service`: vLLM's server, set up to steer.

Nothing heavy is imported before the environment is set: vLLM reads it on import.
"""

import json
import logging
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from trait_core.console import EXIT_USAGE, complain, fail

from trait_service.access.keys import KeysError, configured_keyring
from trait_service.access.keys_cli import app as keys_app
from trait_service.engine.refusals import EngineChoices, refusal
from trait_service.engine.settings import EngineSettings, engine_args
from trait_service.environment import (
    cpu_dtype,
    general_environment,
    is_cuda,
    load_plugins,
    platform_environment,
    resolve_model,
    runs_eager,
)
from trait_service.models.cli import app as models_app
from trait_service.settings import ARGS_ENTRY, ServiceSettings
from trait_service.verify.command import verify

logger = logging.getLogger(__name__)

OURS = ("--worker-cls", "--scheduler-cls", "--additional-config", "--worker-extension-cls", "--async-scheduling")

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
    path = resolve_model(model)
    os.environ.update(general_environment(os.environ, model_is_folder=Path(path).is_dir()))
    cuda = is_cuda()
    os.environ.update(platform_environment(os.environ, cuda=cuda, workers=_world_size(context.args)))
    eager = runs_eager(enforce_eager, cuda=cuda)
    settings = EngineSettings(bank_rows=bank_rows)
    argv = vllm_arguments(
        path,
        context.args,
        {
            "--host": host,
            "--port": port,
            "--dtype": dtype or (None if cuda else cpu_dtype(Path(path))),
            "--max-model-len": max_model_len,
            "--max-num-seqs": max_num_seqs,
            "--served-model-name": None if "--served-model-name" in context.args else model,
        },
        settings,
        cuda=cuda,
        eager=eager,
    )
    args = _parse(argv)
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


# ------------------------------------------------------------------------------------------------ vLLM's arguments


def vllm_arguments(
    model: str,
    further: list[str],
    options: Mapping[str, object | None],
    settings: EngineSettings,
    *,
    cuda: bool,
    eager: bool,
) -> list[str]:
    """The command line that vLLM's own parser reads."""
    engine = engine_args(settings, cuda=cuda)
    argv = [model]
    for name, value in options.items():
        if value is not None:
            argv += [name, str(value)]
    argv += ["--worker-cls", engine["worker_cls"], "--scheduler-cls", engine["scheduler_cls"]]
    argv += ["--additional-config", json.dumps(engine["additional_config"])]
    if eager:
        argv.append("--enforce-eager")
    if cuda:
        argv.append("--no-async-scheduling")
    return [*argv, *further]


def refused_flags(further: list[str]) -> list[str]:
    """Flags of vLLM's that this command sets itself."""
    given = {flag.split("=", 1)[0].replace("_", "-") for flag in further if flag.startswith("--")}
    return [f"{flag} is set by trait-service and cannot be given" for flag in OURS if flag in given]


def refusals(args: Namespace) -> list[str]:
    """What vLLM could run and steering has no test for: each with the flag to leave out."""
    of_the_server = {
        "more than one API server (--api-server-count)": (args.api_server_count or 1) != 1,
        "a server without HTTP (--headless)": args.headless,
        "gRPC (--grpc, --grpc-port)": args.grpc or args.grpc_port is not None,
        "data parallelism over several API servers (--data-parallel-hybrid-lb and the like)": (
            args.data_parallel_multi_port_external_lb or args.data_parallel_hybrid_lb
        ),
        "the Rust front end (VLLM_USE_RUST_FRONTEND)": os.environ.get("VLLM_USE_RUST_FRONTEND", "0") == "1",
    }
    engine = EngineChoices.of_arguments(args).refusals()
    return engine + [refusal(what) for what, chosen in of_the_server.items() if chosen]


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


def _world_size(further: list[str]) -> int:
    """Workers of all engines, each of which gets cores of its own."""
    size = 1
    for flags in (
        ("--tensor-parallel-size", "-tp"),
        ("--pipeline-parallel-size", "-pp"),
        ("--data-parallel-size", "-dp"),
    ):
        for i, word in enumerate(further):
            name, _, value = word.partition("=")
            if name.replace("_", "-") in flags:
                text = value or (further[i + 1] if i + 1 < len(further) else "")
                size *= int(text) if text.isdigit() else 1
    return size


# ------------------------------------------------------------------------------------------------------ vLLM itself


def _parse(argv: list[str]) -> Namespace:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args  # noqa: PLC0415
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup  # noqa: PLC0415
    from vllm.logger import configure_logging_from_args  # noqa: PLC0415
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415

    cli_env_setup()
    args = make_arg_parser(FlexibleArgumentParser(prog="trait-service serve")).parse_args(argv)
    args.model = args.model_tag
    configure_logging_from_args(args)
    validate_parsed_serve_args(args)
    return args


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
