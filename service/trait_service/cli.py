"""The command `trait-service`: vLLM's server, set up to steer.

Nothing heavy is imported before the environment is set: vLLM reads it on import.
"""

import json
import logging
import os
import shutil
import sysconfig
from argparse import Namespace
from collections.abc import Mapping, MutableMapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from trait_service.engine.settings import EngineSettings, engine_args
from trait_service.engine.spec import EXTRA_ARGS_KEY
from trait_service.http.settings import ARGS_ENTRY, ServiceSettings, trait_home
from trait_service.models_cli import app as models_app

logger = logging.getLogger(__name__)

BUNDLED_MODELS = frozenset({"smollm2"})
OURS = ("--worker-cls", "--additional-config", "--worker-extension-cls", "--async-scheduling")

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Serve a language model that can be steered.")


app.add_typer(models_app, name="model")


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
        list[str] | None, typer.Option(help="Key that every route asks for (may be given several times).")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="Folder of the vector registry [default: $TRAIT_HOME/vectors].")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, ... [default: float32 on a CPU].")] = None,
    max_model_len: Annotated[int | None, typer.Option(min=1)] = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="Requests that run at once.")] = None,
    max_relative_dose: Annotated[float, typer.Option(min=0.0, help="Largest |a| / residual norm on one layer.")] = 2.0,
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
    path = _resolve_model(model)
    environment = general_environment(os.environ, model_is_folder=Path(path).is_dir())
    os.environ.update(environment)
    cuda = _is_cuda()
    os.environ.update(platform_environment(os.environ, cuda=cuda, workers=_world_size(context.args)))
    eager = _eager(enforce_eager, cuda=cuda)
    settings = EngineSettings(bank_rows=bank_rows)
    argv = vllm_arguments(
        path,
        context.args,
        {
            "--host": host,
            "--port": port,
            "--dtype": dtype or (None if cuda else "float32"),
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
    problems = refusals(args)
    if problems:
        _fail(problems)
    service_settings: dict[str, Any] = {"max_relative_dose": max_relative_dose}
    if vectors is not None:
        service_settings["vectors"] = vectors.expanduser()
    setattr(args, ARGS_ENTRY, ServiceSettings(**service_settings))
    _run(args)


# ------------------------------------------------------------------------------------------------- the environment


def general_environment(current: Mapping[str, str], *, model_is_folder: bool) -> dict[str, str]:
    """What every platform needs; variables that are set already are kept."""
    plugins = [name for name in current.get("VLLM_PLUGINS", "").split(",") if name]
    if EXTRA_ARGS_KEY not in plugins:
        plugins.append(EXTRA_ARGS_KEY)
    wanted = {
        "VLLM_NO_USAGE_STATS": "1",
        # The saved artifact fails to load on the CPU, and is then rebuilt at every start.
        "VLLM_USE_AOT_COMPILE": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(trait_home() / "inductor"),
    }
    if model_is_folder:
        wanted["HF_HUB_OFFLINE"] = "1"
    return {"VLLM_PLUGINS": ",".join(plugins), **_missing(current, wanted)}


def platform_environment(current: Mapping[str, str], *, cuda: bool, workers: int) -> dict[str, str]:
    """Runner, memory and cores; variables that are set already are kept."""
    if cuda:
        # The engine side is tested with the V1 runner.
        return _missing(current, {"VLLM_USE_V2_MODEL_RUNNER": "0"})
    return _missing(
        current,
        {
            "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib(_available_bytes())),
            "VLLM_CPU_OMP_THREADS_BIND": bind_cores(sorted(os.sched_getaffinity(0)), workers),
        },
    )


def kv_cache_gib(available: int) -> int:
    """A quarter of the free memory, 1 to 16 GiB; vLLM's own default is a large share of the machine."""
    return max(1, min(16, available // 4 // 2**30))


def bind_cores(cores: list[int], workers: int) -> str:
    """Cores for each worker: all of a small machine (`auto` would idle one of two), else all but one for the server."""
    usable = cores if len(cores) <= 4 else cores[1:]
    share = len(usable) // workers
    if share == 0:
        return "nobind"
    return "|".join(",".join(map(str, usable[i * share : (i + 1) * share])) for i in range(workers))


def has_compiler() -> bool:
    """Whether torch.compile can build its CPU kernels: a C++ compiler and Python's headers."""
    compilers = (os.environ.get("CXX"), "g++", "clang++", "c++")
    found = any(shutil.which(name) for name in compilers if name)
    return found and (Path(sysconfig.get_path("include")) / "Python.h").is_file()


def _missing(current: Mapping[str, str], wanted: MutableMapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in wanted.items() if name not in current}


def _available_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
    argv += ["--worker-cls", engine["worker_cls"], "--additional-config", json.dumps(engine["additional_config"])]
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
    checks: list[tuple[bool, str]] = [
        (bool(args.speculative_config), "speculative decoding (--speculative-config)"),
        (bool(args.enable_dbo) or args.ubatch_size > 0, "micro-batch overlap (--enable-dbo, --ubatch-size)"),
        (
            args.prefill_context_parallel_size > 1 or args.decode_context_parallel_size > 1,
            "context parallelism (--prefill-context-parallel-size, --decode-context-parallel-size)",
        ),
        (bool(args.kv_sharing_fast_prefill), "KV-sharing fast prefill (--kv-sharing-fast-prefill)"),
        (
            _sequence_parallel(args),
            "sequence parallelism (--enable-hc-sp, or --enable-expert-parallel with tensor and data parallelism)",
        ),
        ((args.api_server_count or 1) != 1, "more than one API server (--api-server-count)"),
        (args.headless, "a server without HTTP (--headless)"),
        (args.grpc or args.grpc_port is not None, "gRPC (--grpc, --grpc-port)"),
        (
            args.data_parallel_multi_port_external_lb or args.data_parallel_hybrid_lb,
            "data parallelism over several API servers (--data-parallel-hybrid-lb and the like)",
        ),
        (os.environ.get("VLLM_USE_RUST_FRONTEND", "0") == "1", "the Rust front end (VLLM_USE_RUST_FRONTEND)"),
    ]
    return [f"{what} is not supported together with steering: leave it out" for refused, what in checks if refused]


def _sequence_parallel(args: Namespace) -> bool:
    """A layer of such a model holds a part of the tokens only. With experts it comes on by itself."""
    of_experts = args.enable_expert_parallel and args.tensor_parallel_size > 1 and args.data_parallel_size > 1
    return bool(args.enable_hc_sp or of_experts)


def _world_size(further: list[str]) -> int:
    """Workers of one engine, as far as they matter for cores."""
    size = 1
    for flags in (("--tensor-parallel-size", "-tp"), ("--pipeline-parallel-size", "-pp")):
        for i, word in enumerate(further):
            name, _, value = word.partition("=")
            if name.replace("_", "-") in flags:
                text = value or (further[i + 1] if i + 1 < len(further) else "")
                size *= int(text) if text.isdigit() else 1
    return size


# ------------------------------------------------------------------------------------------------------ vLLM itself


def _resolve_model(model: str) -> str:
    if model not in BUNDLED_MODELS:
        return model
    from trait_service.models import resolve  # noqa: PLC0415 - heavy

    return str(resolve(model))


def _is_cuda() -> bool:
    from vllm.platforms import current_platform  # noqa: PLC0415 - reads the environment

    return bool(current_platform.is_cuda())


def _eager(asked: bool | None, *, cuda: bool) -> bool:
    if asked is not False and not cuda and not has_compiler():
        typer.echo(
            "trait-service: no C++ compiler (or no Python headers) here: running eager, without torch.compile", err=True
        )
        return True
    return bool(asked)


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

    load_plugins()
    uvloop.run(run_server(args))


def load_plugins() -> None:
    """Load both plugins by their entry points: vLLM would log one that fails, and serve without it.

    Raises:
        RuntimeError: An entry point is not installed.
    """
    for group in ("vllm.general_plugins", "vllm.endpoint_plugins"):
        found = [entry for entry in entry_points(group=group) if entry.name == EXTRA_ARGS_KEY]
        if not found:
            raise RuntimeError(f"entry point {group}: {EXTRA_ARGS_KEY} is not installed: run `pip install -e .` again")
        found[0].load()


def _fail(problems: list[str]) -> None:
    for problem in problems:
        typer.echo(f"trait-service: {problem}", err=True)
    raise typer.Exit(2)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
