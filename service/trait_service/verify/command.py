"""`trait-service verify`: check that steering works on this machine with this model."""

import os
import platform
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from trait_core import __version__
from trait_core.errors import first_fault

from trait_service.engine.errors import UnsupportedEngineError
from trait_service.engine.settings import EngineSettings
from trait_service.environment import (
    check_version,
    cpu_dtype,
    general_environment,
    is_cuda,
    kv_cache_gib,
    load_plugins,
    platform_environment,
    runs_eager,
)
from trait_service.preflight import check_model

if TYPE_CHECKING:
    from trait_service.verify.probe import ProbeEngine
    from trait_service.verify.report import Subject


class Dtype(StrEnum):
    """Dtype of weights and activations."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def verify(
    model: Annotated[
        str, typer.Argument(help="Hugging Face id, folder, or smollm2 (comes with the package).")
    ] = "smollm2",
    dtype: Annotated[Dtype | None, typer.Option(help="[default: as serve chooses].")] = None,
    enforce_eager: Annotated[
        bool | None,
        typer.Option(
            "--enforce-eager/--compile", help="Run eager, or compile [default: compile, where a compiler is]."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and smaller runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON on stdout.")] = False,
    allow_untested_vllm: Annotated[
        bool,
        typer.Option("--allow-untested-vllm", help=str(EngineSettings.model_fields["allow_untested_vllm"].description)),
    ] = False,
    layer_rule: Annotated[
        list[str] | None, typer.Option("--layer-rule", help=str(EngineSettings.model_fields["layer_rule"].description))
    ] = None,
    hook_points: Annotated[
        list[str] | None,
        typer.Option(
            "--hook-points",
            help="Hook points that are checked, with commas between them [default: all that are known for MODEL].",
        ),
    ] = None,
) -> None:
    """Check on this machine that steering and capture do what they say with MODEL.

    Exit code 0: no check failed; 1: one failed, or the engine did not start; 2: usage.
    """
    from trait_service.models.bundled import ModelError, resolve  # noqa: PLC0415 - heavy

    errors = Console(stderr=True)
    try:
        settings = EngineSettings(
            allow_untested_vllm=allow_untested_vllm, layer_rule=layer_rule or [], hook_points=hook_points or []
        )
    except ValidationError as error:
        fault = first_fault(error)
        raise typer.BadParameter(fault.reason, param_hint=f"--{fault.where.split('.')[0].replace('_', '-')}") from error
    try:
        check_version(settings)
        check_model(model)
        path = resolve(model)
        os.environ.update(_environment(path))
        cuda = is_cuda()
    except (ModelError, UnsupportedEngineError) as error:
        errors.print(f"trait-service: {error}", markup=False)
        raise typer.Exit(2) from error
    os.environ.update(platform_environment(os.environ, cuda=cuda, workers=1))
    load_plugins()
    eager = runs_eager(enforce_eager, cuda=cuda)
    from trait_service.verify.judging import precision_of  # noqa: PLC0415 - after the environment is set
    from trait_service.verify.probe import ProbeEngine  # noqa: PLC0415
    from trait_service.verify.reference import reference_or_why_not  # noqa: PLC0415
    from trait_service.verify.report import verify_engine  # noqa: PLC0415

    errors.print(f"starting the engine with {model}", markup=False)
    chosen = dtype.value if dtype else ("auto" if cuda else cpu_dtype(Path(path)))
    try:
        engine = ProbeEngine(path, chosen, settings, cuda=cuda, eager=eager)
    except Exception as error:  # vLLM raises whatever its loader met: said, with the exit code of a failed check
        errors.print(f"trait-service: the engine did not start: {error}", markup=False)
        raise typer.Exit(1) from error
    report = verify_engine(
        engine,
        reference_or_why_not(path, engine.n_layers),
        precision_of(engine.dtype, quantised=bool(engine.info["quantization"])),
        quick=quick,
        subject=_subject(model, engine, cuda=cuda, eager=eager),
        say=lambda line: errors.print(line, markup=False, highlight=False, soft_wrap=True),
    )
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        Console().print(report.render())
    raise typer.Exit(report.exit_code)


def _environment(path: str) -> dict[str, str]:
    """Environment of `serve`, but with the engine in this process and memory left for the reference."""
    wanted = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib(0)),
    }
    kept = {name: value for name, value in wanted.items() if name not in os.environ}
    return {**general_environment(os.environ, model_is_folder=Path(path).is_dir()), **kept}


def _subject(model: str, engine: "ProbeEngine", *, cuda: bool, eager: bool) -> "Subject":
    from trait_service.verify.report import Subject  # noqa: PLC0415 - heavy

    return Subject(
        model=Path(model).expanduser().resolve().name if Path(model).expanduser().exists() else model,
        architecture=engine.architecture,
        dtype=engine.dtype,
        weights=engine.info["quantization"] or engine.dtype,
        on="CUDA" if cuda else "CPU",
        device=engine.device_name,
        system=platform.system(),
        mode="eager" if eager else "compiled",
        runner="V2" if engine.info["runner"].endswith("V2") else "V1",
        scheduling="asynchronous" if engine.asynchronous else "synchronous",
        layers=engine.n_layers,
        width=engine.d_model,
        versions={"trait-steering": __version__, **{name: str(each) for name, each in engine.info["versions"].items()}},
    )
