"""Set-up of a process before vLLM is imported: environment variables, data type, plugins.

Nothing heavy is imported here: vLLM reads the environment on import.
"""

import json
import os
import shutil
import sysconfig
from collections.abc import Mapping, MutableMapping
from importlib.metadata import entry_points
from pathlib import Path

import typer

from trait_service.compat.versions import version_refusal
from trait_service.engine.errors import UnsupportedEngineError
from trait_service.engine.refusals import has_int4_weights, platform_refusal
from trait_service.engine.settings import EngineSettings
from trait_service.engine.spec import EXTRA_ARGS_KEY
from trait_service.paths import trait_home
from trait_service.preflight import unwritable

ENDPOINT_PLUGINS = "vllm.endpoint_plugins"


def check_version(settings: EngineSettings) -> None:
    """Refuse a vLLM that steering was not written for, before anything of it is imported.

    Raises:
        UnsupportedEngineError: With the version that is installed and those that are supported.
    """
    refused = version_refusal(allow_untested=settings.allow_untested_vllm)
    if refused is not None:
        raise UnsupportedEngineError(refused)


def general_environment(current: Mapping[str, str], *, model_is_folder: bool) -> dict[str, str]:
    """Variables that every platform needs; those already set are left out."""
    wanted = {
        "VLLM_NO_USAGE_STATS": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(trait_home() / "inductor"),
    }
    if model_is_folder:
        wanted["HF_HUB_OFFLINE"] = "1"
    if unwritable(vllm_cache(current)) is not None:  # a read-only home: vLLM would log a traceback for each file
        wanted["VLLM_CACHE_ROOT"] = str(trait_home() / "vllm")
    return {"VLLM_PLUGINS": ",".join(vllm_plugins(current.get("VLLM_PLUGINS"))), **_missing(current, wanted)}


def vllm_cache(current: Mapping[str, str]) -> Path:
    """The folder that vLLM keeps its own files in, unless `VLLM_CACHE_ROOT` names another."""
    return Path(current.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm"


def vllm_plugins(named: str | None) -> list[str]:
    """Names for `VLLM_PLUGINS`: those that vLLM would load, and ours.

    Without the variable vLLM loads every installed plugin but those that add routes; such a one it loads only if it is
    named, which ours must be. So all that it would load are named here. One that adds routes under the same name would
    open them unasked: it is left out, with a warning.

    Args:
        named: The variable's value; None if it is not set.
    """
    if named is not None:
        given = [name for name in named.split(",") if name]
        return given if EXTRA_ARGS_KEY in given else [*given, EXTRA_ARGS_KEY]
    groups = {group for group in entry_points().groups if group.startswith("vllm.") and group.endswith("_plugins")}
    others = {entry.name for group in groups - {ENDPOINT_PLUGINS} for entry in entry_points(group=group)}
    others.discard(EXTRA_ARGS_KEY)
    opening = others & {entry.name for entry in entry_points(group=ENDPOINT_PLUGINS)}
    for name in sorted(opening):
        typer.echo(
            f"trait-service: vLLM's plugin {name} is left out: it adds HTTP routes, which open only where it is named; "
            f"VLLM_PLUGINS={name},... loads it",
            err=True,
        )
    return [*sorted(others - opening), EXTRA_ARGS_KEY]


def platform_environment(current: Mapping[str, str], *, cuda: bool, workers: int, v1: bool = False) -> dict[str, str]:
    """Variables for runner, compilation, memory and cores; those already set are left out.

    Args:
        current: The environment.
        cuda: The engine runs on CUDA, else on the CPU.
        workers: Worker processes, for their cores.
        v1: Run vLLM's V1 model runner on CUDA; else vLLM chooses.
    """
    if cuda:
        return _missing(current, {"VLLM_USE_V2_MODEL_RUNNER": "0"}) if v1 else {}
    return _missing(
        current,
        {
            # The saved artifact fails to load on the CPU, and is then rebuilt at every start.
            "VLLM_USE_AOT_COMPILE": "0",
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
    """True if torch.compile can build its CPU kernels: needs a C++ compiler and Python's headers."""
    compilers = (os.environ.get("CXX"), "g++", "clang++", "c++")
    found = any(shutil.which(name) for name in compilers if name)
    return found and (Path(sysconfig.get_path("include")) / "Python.h").is_file()


def _missing(current: Mapping[str, str], wanted: MutableMapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in wanted.items() if name not in current}


def _available_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cpu_dtype(model: Path) -> str:
    """float32, which is exact and without AMX also faster than bfloat16; INT4 weights need bfloat16."""
    config = model / "config.json"
    document = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return "bfloat16" if has_int4_weights(document.get("quantization_config") or {}) else "float32"


def is_cuda() -> bool:
    """True if vLLM will run on CUDA, False on the CPU; imports vLLM.

    Raises:
        UnsupportedEngineError: It will run on something else (ROCm, TPU, ...).
    """
    from vllm.platforms import current_platform  # noqa: PLC0415 - reads the environment

    refused = platform_refusal(current_platform)
    if refused is not None:
        raise UnsupportedEngineError(refused)
    return bool(current_platform.is_cuda())


def runs_eager(asked: bool | None, *, cuda: bool) -> bool:
    """True to run without torch.compile: on request, or if no compiler is available."""
    if asked is not False and not cuda and not has_compiler():
        typer.echo(
            "trait-service: no C++ compiler (or no Python headers) found: running eager, without torch.compile",
            err=True,
        )
        return True
    return bool(asked)


def load_plugins() -> None:
    """Load both plugins by their entry points: vLLM would log one that fails, and serve without it.

    Raises:
        RuntimeError: An entry point is not installed.
    """
    for group in ("vllm.general_plugins", ENDPOINT_PLUGINS):
        found = [entry for entry in entry_points(group=group) if entry.name == EXTRA_ARGS_KEY]
        if not found:
            raise RuntimeError(f"entry point {group}: {EXTRA_ARGS_KEY} is not installed: run `pip install -e .` again")
        found[0].load()
