"""The three ways in which vLLM runs a model, on a CPU: what a GPU does by default, and what it can be told to do.

vLLM's CPU platform is V1 and synchronous. Asynchronous scheduling needs its refusal undone; the V2 runner needs Triton,
which Triton's own interpreter stands in for. Both exist for tests only. `TRAIT_ENGINE_DEVICE=cuda` lets the engine tests
start CUDA engines, which need neither; what a test says about the CPU's worker then fails. No GPU has run these tests yet.
"""

import os
from pathlib import Path
from typing import Any

V1_SYNC, V1_ASYNC, V2_ASYNC = FORMS = ("v1-sync", "v1-async", "v2-async")


def in_forms(*forms: str) -> Any:
    """Mark a module, class or test to run once in each form."""
    import pytest

    return pytest.mark.parametrize("form", forms, indirect=True, scope="module")


VARIABLE = "TRAIT_ENGINE_FORM"

DEFAULT_DEVICE = "cpu"
CUDA = os.environ.get("TRAIT_ENGINE_DEVICE", DEFAULT_DEVICE) == "cuda"
"""Engines run on a GPU."""

CUDA_OPTIONS: dict[str, Any] = {
    "gpu_memory_utilization": 0.04,  # several run side by side; the KV cache has its own number
    "kv_cache_memory_bytes": 2**30,
    "kernel_config": {"enable_jit_warmup": False},
}
"""Options of `LLM` on a GPU."""

TRITON = Path(os.environ.get("TRAIT_TRITON", Path(__file__).parents[2] / ".cache" / "triton"))
"""Folder with the package `triton`, as `make test-triton` installs it."""


def environment_of(form: str) -> dict[str, str]:
    """Variables of a process that is to run engines in this form."""
    variables = {VARIABLE: form}
    if CUDA:
        return {**variables, "VLLM_USE_V2_MODEL_RUNNER": "1" if form == V2_ASYNC else "0"}
    if form == V2_ASYNC:
        path = os.environ.get("PYTHONPATH")
        variables |= {
            "TRITON_INTERPRET": "1",
            "VLLM_USE_V2_MODEL_RUNNER": "1",
            "PYTHONPATH": f"{TRITON}{os.pathsep}{path}" if path else str(TRITON),
        }
    return variables


def current() -> str:
    """The form of this process."""
    return os.environ.get(VARIABLE, V1_SYNC)


def lacks_triton(form: str) -> bool:
    """True if the form needs Triton's interpreter, and it is not installed."""
    return form == V2_ASYNC and not CUDA and not TRITON.is_dir()


def become(form: str) -> None:
    """Let this process run engines in a form; call it before vLLM is imported."""
    if CUDA:
        return
    if form == V2_ASYNC:
        _pretend_triton_has_a_cpu_backend()
    if form != V1_SYNC:
        _allow_asynchronous_scheduling()


def _pretend_triton_has_a_cpu_backend() -> None:
    import triton.backends

    class Driver:
        @staticmethod
        def is_active() -> bool:
            return True

    class Backend:
        driver = Driver
        compiler = None

    triton.backends.backends["cpu"] = Backend


def _allow_asynchronous_scheduling() -> None:
    from vllm.platforms.cpu import CpuPlatform

    vllms = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls, vllm_config) -> None:
        asked = vllm_config.scheduler_config.async_scheduling
        vllms(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = asked

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)
