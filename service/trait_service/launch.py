"""From a model's name and options to vLLM's parsed arguments: `trait-service serve` and `trait_service.local` start here.

Nothing heavy is imported before the environment is set: vLLM reads it on import.
"""

import json
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from trait_service.engine.refusals import EngineOptions, refusal
from trait_service.engine.settings import EngineSettings, engine_args
from trait_service.environment import (
    check_version,
    cpu_dtype,
    general_environment,
    is_cuda,
    platform_environment,
    runs_eager,
)
from trait_service.models.bundled import resolve

Runner = Literal["auto", "v1"]

TENSOR = ("--tensor-parallel-size", "-tp")
PIPELINE = ("--pipeline-parallel-size", "-pp")
DATA = ("--data-parallel-size", "-dp")

OURS = ("--worker-cls", "--scheduler-cls", "--additional-config", "--worker-extension-cls", "--async-scheduling")


def launch_arguments(
    model: str,
    further: Sequence[str],
    options: Mapping[str, object | None],
    settings: EngineSettings,
    *,
    dtype: str | None,
    enforce_eager: bool | None,
    runner: Runner = "auto",
) -> Namespace:
    """Set the environment that vLLM reads on import, and return its parsed arguments.

    Args:
        model: Hugging Face id, folder, or the name of a bundled model.
        further: vLLM's own flags, as words of a command line.
        options: Flags of vLLM with their values; None leaves one out.
        settings: Sizes of the engine-side buffers.
        dtype: None chooses: on a CPU float32, or bfloat16 for INT4 weights; on CUDA vLLM's choice.
        enforce_eager: None compiles where there is a compiler.
        runner: Model runner on CUDA: `auto` leaves it to vLLM, with asynchronous scheduling; `v1` is V1, synchronous.

    Raises:
        ModelError: The model's folder does not exist, or a bundled model cannot be fetched.
        UnsupportedEngineError: Another vLLM than steering was written for, or a platform without a worker.
    """
    check_version(settings)
    further = list(further)
    path = resolve(model)
    os.environ.update(general_environment(os.environ, model_is_folder=Path(path).is_dir()))
    cuda = is_cuda()
    if size_of(further, PIPELINE) > 1:
        runner = "v1"  # stages of a pipeline are tested with V1 only
    os.environ.update(platform_environment(os.environ, cuda=cuda, workers=world_size(further), v1=runner == "v1"))
    chosen = {
        "--dtype": dtype or (None if cuda else cpu_dtype(Path(path))),
        "--served-model-name": None if "--served-model-name" in further else model,
        **options,
    }
    eager = runs_eager(enforce_eager, cuda=cuda)
    asynchronous = cuda and runner != "v1" and "--no-async-scheduling" not in further
    return parse(vllm_arguments(path, further, chosen, settings, cuda=cuda, eager=eager, asynchronous=asynchronous))


def vllm_arguments(
    model: str,
    further: list[str],
    options: Mapping[str, object | None],
    settings: EngineSettings,
    *,
    cuda: bool,
    eager: bool,
    asynchronous: bool = False,
) -> list[str]:
    """Write the command line that vLLM's own parser reads."""
    engine = engine_args(settings, cuda=cuda, asynchronous=asynchronous)
    argv = [model]
    for name, value in options.items():
        if value is not None:
            argv += [name, str(value)]
    argv += ["--worker-cls", engine["worker_cls"], "--scheduler-cls", engine["scheduler_cls"]]
    argv += ["--additional-config", json.dumps(engine["additional_config"])]
    if eager:
        argv.append("--enforce-eager")
    argv.append("--async-scheduling" if asynchronous else "--no-async-scheduling")
    return [*argv, *further]


def refused_flags(further: list[str]) -> list[str]:
    """List the vLLM flags that trait-service sets itself and that were given all the same."""
    given = {flag.split("=", 1)[0].replace("_", "-") for flag in further if flag.startswith("--")}
    return [f"{flag} is set by trait-service and cannot be given" for flag in OURS if flag in given]


def refusals(args: Namespace) -> list[str]:
    """List the choices that vLLM could run and steering has no test for, each with the flag to leave out."""
    of_the_server = {
        "more than one API server (--api-server-count)": (args.api_server_count or 1) != 1,
        "a server without HTTP (--headless)": args.headless,
        "gRPC (--grpc, --grpc-port)": args.grpc or args.grpc_port is not None,
        "data parallelism over several API servers (--data-parallel-hybrid-lb and the like)": (
            args.data_parallel_multi_port_external_lb or args.data_parallel_hybrid_lb
        ),
        "the Rust front end (VLLM_USE_RUST_FRONTEND)": os.environ.get("VLLM_USE_RUST_FRONTEND", "0") == "1",
    }
    engine = EngineOptions.of_arguments(args).refusals()
    return engine + [refusal(what) for what, chosen in of_the_server.items() if chosen]


def world_size(further: list[str]) -> int:
    """Count the workers of all engines; each gets cores of its own."""
    return size_of(further, TENSOR) * size_of(further, PIPELINE) * size_of(further, DATA)


def size_of(further: list[str], flags: tuple[str, str]) -> int:
    """The value of a parallel size, by either of its flags; 1 if it is not given."""
    size = 1
    for i, word in enumerate(further):
        name, _, value = word.partition("=")
        if name.replace("_", "-") in flags:
            text = value or (further[i + 1] if i + 1 < len(further) else "")
            size = int(text) if text.isdigit() else 1
    return size


def parse(argv: list[str]) -> Namespace:
    """Let vLLM's own parser read a command line."""
    from vllm.logger import configure_logging_from_args  # noqa: PLC0415
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415

    from trait_service.compat.names import (  # noqa: PLC0415 - imports vLLM
        cli_env_setup,
        make_arg_parser,
        validate_parsed_serve_args,
    )

    cli_env_setup()
    args = make_arg_parser(FlexibleArgumentParser(prog="trait-service serve")).parse_args(argv)
    args.model = args.model_tag
    configure_logging_from_args(args)
    validate_parsed_serve_args(args)
    return args
