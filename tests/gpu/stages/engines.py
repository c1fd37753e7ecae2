"""Engines for the stages, each in a process of its own: stock vLLM, or vLLM with the plugin."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import psutil
from asking import Answer, Request, Shape
from stage import Context

CAPTURE_SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 320, 512]
GIB = 2**30


@dataclass(frozen=True)
class Kind:
    """How an engine is started.

    Args:
        plugin: With the plugin; else stock vLLM.
        v1: The V1 runner; else vLLM chooses.
        synchronous: No asynchronous scheduling; else as vLLM chooses.
        apart: The engine core runs in a process of its own, as a server's does; its steps then cannot be driven one by one.
        options: Further arguments of `LLM`.
        environment: Further variables.
    """

    plugin: bool = True
    v1: bool = False
    synchronous: bool = False
    apart: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


class Engine:
    """One engine in a process of its own.

    It starts at once; the first call waits until it is ready. Several may start side by side, so each compiles into caches
    of its own: vLLM's are not written for that.

    Args:
        context: Model and device.
        kind: How it is started.
        share: It takes this share of the card's memory for its KV cache.
    """

    def __init__(self, context: Context, kind: Kind, *, share: float = 1 / 32) -> None:
        spawn = get_context("spawn")
        self._caches = TemporaryDirectory(prefix="gpu-stage-caches-", ignore_cleanup_errors=True)
        self._pipe, theirs = spawn.Pipe()
        self._deadline = context.started + context.limit_s
        kv_bytes = int(context.machine.memory_gib * GIB * share)
        start = partial(_start, context.model, kind, cuda=context.cuda, kv_bytes=kv_bytes, caches=self._caches.name)
        self._process = spawn.Process(target=_serve, args=(theirs, start))
        self._process.start()
        theirs.close()
        self._ready: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # vLLM's engine core and workers outlive a killed parent, with its memory and its pipes.
        descendants: list[psutil.Process] = []
        with suppress(psutil.Error):
            descendants = psutil.Process(self._process.pid).children(recursive=True)
        with suppress(OSError):
            self._pipe.send(None)
        self._process.join(15)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(15)
        for process in descendants:
            with suppress(psutil.Error):
                process.kill()
        self._caches.cleanup()

    @property
    def ready(self) -> dict[str, Any]:
        """Description of the engine by itself: runner, scheduling, graphs, seconds of its start; waits for it.

        Raises:
            EngineError: It did not start.
        """
        if self._ready is None:
            self._ready = self._answer()
        return self._ready

    @property
    def shape(self) -> Shape:
        """The model's numbers that specs are made from; with the plugin only."""
        return self.call("shape")

    def call(self, job: str, *args: Any) -> Any:
        """Do a job of `engine_process.Runner` and wait for it.

        Raises:
            EngineError: It failed, or the stage's time is up.
        """
        _ = self.ready
        self._pipe.send((job, *args))
        return self._answer()

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Run requests that are submitted together."""
        return self.call("generate", list(requests))

    def _answer(self) -> Any:
        if not self._pipe.poll(max(1.0, self._deadline - time.monotonic())):
            raise EngineError("the engine gave no answer before the stage's time was up")
        try:
            done, answer = self._pipe.recv()
        except EOFError:
            raise EngineError("the engine's process ended: see the log above") from None
        if not done:
            raise EngineError(str(answer))
        return answer


@contextmanager
def engines_of(context: Context, kinds: Mapping[str, Kind], *, share: float = 1 / 32) -> Iterator[dict[str, Engine]]:
    """Engines that start side by side, and end so."""
    engines = {name: Engine(context, kind, share=share) for name, kind in kinds.items()}
    try:
        yield engines
    finally:
        side_by_side(list(engines.values()), Engine.__exit__)


class EngineError(Exception):
    """An engine did not start, or failed in a job."""


def side_by_side(engines: Sequence[Engine], work: Callable[[Engine], Any]) -> list[Any]:
    """`work(engine)` for all engines at once; raises what the first one raises."""
    with ThreadPoolExecutor(len(engines)) as pool:
        return list(pool.map(work, engines))


def _serve(pipe: Connection, start: Callable[[], Any]) -> None:
    """The process of an engine: its jobs, one after another. What it prints goes to stderr."""
    os.dup2(sys.stderr.fileno(), 1)
    try:
        runner = start()
        pipe.send((True, runner.described()))
    except Exception as error:  # noqa: BLE001 - told to the stage
        traceback.print_exc()
        pipe.send((False, f"{type(error).__name__}: {error}"[:1500]))
        return
    while (job := pipe.recv()) is not None:
        try:
            pipe.send((True, getattr(runner, job[0])(*job[1:])))
        except Exception as error:  # noqa: BLE001 - told to the stage, which may go on with the next job
            traceback.print_exc()
            pipe.send((False, f"{type(error).__name__}: {error}"[:1500]))


def _start(model: str, kind: Kind, *, cuda: bool, kv_bytes: int, caches: str) -> Any:
    """In the engine's process: set the environment, then import vLLM and start."""
    os.environ.update(_environment(model, kind, cuda=cuda, caches=caches))
    from engine_process import Runner

    return Runner(model, _options(kind, cuda=cuda, kv_bytes=kv_bytes), plugin=kind.plugin, cuda=cuda)


def _environment(model: str, kind: Kind, *, cuda: bool, caches: str) -> dict[str, str]:
    from trait_service.environment import platform_environment

    wanted = {
        "VLLM_PLUGINS": "trait_steering" if kind.plugin else "",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if kind.apart else "0",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # as a server does: CUDA does not outlive a fork
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": caches,
        "TQDM_DISABLE": "1",
        # float32 must be float32, in attention too: Triton would use TF32.
        "TRITON_F32_DEFAULT": "ieee",
    }
    if Path(model).is_dir():
        wanted["HF_HUB_OFFLINE"] = "1"
    if not cuda:
        wanted["VLLM_CPU_KVCACHE_SPACE"] = "1"
    return {
        **platform_environment({**os.environ, **wanted}, cuda=cuda, workers=1, v1=kind.v1),
        **wanted,
        **kind.environment,
    }


def _options(kind: Kind, *, cuda: bool, kv_bytes: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "seed": 0,
        "max_model_len": 512,
        "max_num_seqs": 320 if cuda else 16,
        "max_num_batched_tokens": 8192 if cuda else 1024,
        "max_logprobs": 10,
        "use_tqdm_on_load": False,
    }
    if cuda:
        options |= {
            "gpu_memory_utilization": 0.05,  # the KV cache has its own number; this only must be free at the start
            "kv_cache_memory_bytes": kv_bytes,
            "compilation_config": {"cudagraph_capture_sizes": CAPTURE_SIZES},
        }
    else:
        options |= {"dtype": "float32", "enforce_eager": True}
    if kind.plugin:
        from trait_service.engine.settings import EngineSettings, engine_args

        asynchronous = False if kind.synchronous else None
        options |= engine_args(EngineSettings(), cuda=cuda, asynchronous=asynchronous)
    elif kind.synchronous:
        options["async_scheduling"] = False
    return options | dict(kind.options)
