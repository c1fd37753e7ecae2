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

from trait_service.engine.refusals import has_int4_weights
from trait_service.engine.spec import EXTRA_ARGS_KEY
from trait_service.paths import trait_home


def general_environment(current: Mapping[str, str], *, model_is_folder: bool) -> dict[str, str]:
    """Variables that every platform needs; those already set are left out."""
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


def platform_environment(current: Mapping[str, str], *, cuda: bool, workers: int, v1: bool = False) -> dict[str, str]:
    """Variables for runner, memory and cores; those already set are left out.

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
    """True if vLLM will run on CUDA; imports vLLM."""
    from vllm.platforms import current_platform  # noqa: PLC0415 - reads the environment

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
    for group in ("vllm.general_plugins", "vllm.endpoint_plugins"):
        found = [entry for entry in entry_points(group=group) if entry.name == EXTRA_ARGS_KEY]
        if not found:
            raise RuntimeError(f"entry point {group}: {EXTRA_ARGS_KEY} is not installed: run `pip install -e .` again")
        found[0].load()
