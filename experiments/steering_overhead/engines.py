"""Engines in processes of their own: stock vLLM and vLLM with the plugin, taking turns at the machine's cores."""

import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from workloads import N_TOKENS, STOCK, WORKLOADS, Model, digest, directions, specs, sweep_configurations, sweep_prompts

N_DIRECTIONS = 256
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_USE_AOT_COMPILE": "0",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
}


@dataclass(frozen=True)
class Timing:
    """One run: seconds of the wall clock, and of all cores together."""

    wall: float
    cpu: float


class Process:
    """A worker in a process of its own; it sleeps while others run.

    Args:
        make: Called in the child; its `call(*job)` does each job.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def call(self, *job: Any) -> Any:
        """Do a job and wait for it."""
        self._pipe.send(job)
        return self._answer()

    def close(self) -> None:
        """End the process, unless it has failed and ended itself."""
        if self._process.is_alive():
            with suppress(BrokenPipeError):
                self._pipe.send(None)
        self._process.join(60)

    def _answer(self) -> Any:
        done, answer = self._pipe.recv()
        if not done:
            raise RuntimeError(f"a process failed: {answer}")
        return answer


def _serve(pipe: Connection, make: Callable[[], Any]) -> None:
    try:
        worker = make()
        pipe.send((True, None))
        while (job := pipe.recv()) is not None:
            pipe.send((True, worker.call(*job)))
    except Exception as error:  # noqa: BLE001 - told to the parent, which stops
        pipe.send((False, f"{type(error).__name__}: {error}"))


class Engine(Process):
    """One vLLM engine.

    Args:
        model: Folder.
        plugin: Steering is loaded, or vLLM is as it comes.
        compiled: torch.compile, or eager.
        hook_points: Hook points beside the blocks' outputs, where steering is loaded.
    """

    def __init__(self, model: str, *, plugin: bool, compiled: bool, hook_points: Sequence[str] = ()) -> None:
        super().__init__(partial(_EngineRunner, model, plugin=plugin, compiled=compiled, hook_points=hook_points))

    def run(self, workload: str, variant: str, run: int) -> Timing:
        """Run a workload once.

        Args:
            workload: Name.
            variant: `stock` asks for nothing.
            run: Seed of the prompts.
        """
        return Timing(*self.call("run", workload, variant, run))

    def sweep(self) -> tuple[Timing, list[list[int]]]:
        """Run the sweep of `workloads.py`; the replies' tokens, configuration after configuration."""
        wall, cpu, replies = self.call("sweep")
        return Timing(wall, cpu), replies

    def norms(self) -> list[float]:
        """Mean token norm at each layer."""
        norms: list[float] = self.call("norms")
        return norms


def engine_in_this_process(
    model: str, *, plugin: bool, compiled: bool, before: Callable[[], None] = lambda: None
) -> "_EngineRunner":
    """Start an engine in this process, so that its code can be timed.

    Args:
        before: Called when the plugin can be imported, before the engine is made.
    """
    return _EngineRunner(model, plugin=plugin, compiled=compiled, before=before)


class _NoMixin:
    """In the place of the plugin's mixin: Python swaps an object's class only for one that is laid out alike."""


class _EngineRunner:
    """The engine inside its process."""

    def __init__(
        self,
        model: str,
        *,
        plugin: bool,
        compiled: bool,
        hook_points: Sequence[str] = (),
        before: Callable[[], None] = lambda: None,
    ) -> None:
        os.environ.update(ENVIRONMENT | {"VLLM_PLUGINS": "trait_steering" if plugin else ""})
        cores = sorted(os.sched_getaffinity(0))
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
        from trait_service.engine.settings import EngineSettings, engine_args  # noqa: PLC0415 - after the environment
        from vllm import LLM  # noqa: PLC0415

        before()
        self.plugin = plugin
        settings = EngineSettings(hook_points=list(hook_points))
        options: dict[str, Any] = engine_args(settings, cuda=False) if plugin else {}
        self.llm = LLM(
            model=model,
            dtype="float32",
            seed=0,
            max_model_len=1024,
            max_num_seqs=256,
            max_num_batched_tokens=2048,
            enforce_eager=not compiled,
            **options,
        )
        config = self.llm.llm_engine.vllm_config.model_config
        self.n_vocabulary = config.get_vocab_size()
        if plugin:
            shape = Model(config.get_total_num_hidden_layers(), config.get_hidden_size(), [])
            made = directions(shape, N_DIRECTIONS)
            self.bank = [digest(direction) for direction in made]
            put = dict(zip(self.bank, made, strict=True))
            self.llm.collective_rpc("trait_update_bank", args=(put, []))
            self.model = Model(shape.n_layers, shape.d_model, self._norms())

    def call(self, job: str, *args: Any) -> Any:
        """Do one job by its name."""
        return {"run": self._run, "sweep": self._sweep, "norms": lambda: self.model.norms}[job](*args)

    def _norms(self) -> list[float]:
        from safetensors.numpy import load  # noqa: PLC0415
        from trait_service.engine.spec import CaptureSpec, RequestSpec  # noqa: PLC0415

        spec = RequestSpec(key="norms", capture=CaptureSpec(positions=["all[4:]"]))
        self._generate([list(range(1000, 1032))], [spec], max_tokens=1)
        answer = self.llm.collective_rpc("trait_collect", args=({"norms": []},))[0]
        norms: list[float] = load(answer["captures"])["norms/norm"][0].tolist()
        return norms

    def _run(self, workload_name: str, variant: str, run: int) -> tuple[float, float]:
        workload = WORKLOADS[workload_name]
        prompts = workload.prompts(run, self.n_vocabulary)
        asked = [None] * len(prompts) if variant == STOCK else specs(variant, workload, self.model, self.bank)
        keys = [spec.key for spec in asked if spec is not None]
        self.llm.reset_prefix_cache()  # the runs that are compared read the same prompts
        with self._plugin_out() if variant == STOCK and self.plugin else nullcontext():
            wall, cpu = time.perf_counter(), cpu_seconds()
            self._generate(prompts, asked, max_tokens=workload.n_generated, ignore_eos=True)
            collected = self.llm.collective_rpc("trait_collect", args=({key: [] for key in keys},))[0] if keys else None
            timing = time.perf_counter() - wall, cpu_seconds() - cpu
        if collected is not None:
            touched = workload.n_generated if variant == "lens" else workload.n_prompt + workload.n_generated - 1
            _check_done(variant, touched, collected, len(keys))
        return timing

    @contextmanager
    def _plugin_out(self) -> Iterator[None]:
        """Stock vLLM on the same weights and caches: vLLM's own runner and scheduler, and no hook on any layer.

        Two processes differ by several per cent in speed, by where their memory lies; this leaves the plugin alone as
        the difference. Eager only: a compiled graph holds the operation.
        """
        from vllm.v1.core.sched.scheduler import Scheduler  # noqa: PLC0415
        from vllm.v1.worker.cpu_model_runner import CPUModelRunner  # noqa: PLC0415

        core = self.llm.llm_engine.engine_core.engine_core
        runner = core.model_executor.driver_worker.worker.model_runner
        hooked = [module for module in runner.model.modules() if module._forward_hooks]  # noqa: SLF001
        hooks = [dict(module._forward_hooks) for module in hooked]  # noqa: SLF001
        # vLLM tells a runner of finished requests in the step after; this step's runner is stock, and would not pass it on.
        for request_id in list(runner.trait_state._live):  # noqa: SLF001
            runner.trait_state.remove(request_id)
        classes = type(runner), type(core.scheduler)
        for module in hooked:
            module._forward_hooks.clear()  # noqa: SLF001
        runner.__class__, core.scheduler.__class__ = CPUModelRunner, type("Stock", (_NoMixin, Scheduler), {})
        try:
            yield
        finally:
            runner.__class__, core.scheduler.__class__ = classes
            for module, own in zip(hooked, hooks, strict=True):
                module._forward_hooks.update(own)  # noqa: SLF001

    def _sweep(self) -> tuple[float, float, list[list[int]]]:
        import numpy as np  # noqa: PLC0415
        from trait_service.engine.spec import RequestSpec, TermSpec  # noqa: PLC0415

        ids = sweep_prompts(self.llm.get_tokenizer())
        asked = []
        batch = []
        for c, (layer, added) in enumerate(sweep_configurations(self.model)):
            term = TermSpec(layer=layer, direction=self.bank[c], value=float(np.linalg.norm(added)))
            for p, prompt in enumerate(ids):
                asked.append(RequestSpec(key=f"s{c}-{p}", terms=[term]))
                batch.append(prompt)
        wall, cpu = time.perf_counter(), cpu_seconds()
        outputs = self._generate(batch, asked, max_tokens=N_TOKENS)
        self.llm.collective_rpc("trait_collect", args=({spec.key: [] for spec in asked},))
        timing = time.perf_counter() - wall, cpu_seconds() - cpu
        self.llm.reset_prefix_cache()
        return (*timing, [list(output.outputs[0].token_ids) for output in outputs])

    def _generate(self, prompts: list[list[int]], asked: list[Any], **options: Any) -> list[Any]:
        from vllm import SamplingParams  # noqa: PLC0415

        parameters = [
            SamplingParams(
                temperature=0,
                detokenize=False,
                extra_args=None if spec is None else spec.to_extra_args(),
                **options,
            )
            for spec in asked
        ]
        outputs: list[Any] = self.llm.generate(
            [{"prompt_token_ids": ids} for ids in prompts], parameters, use_tqdm=False
        )
        return outputs


def _check_done(variant: str, n_positions: int, collected: dict[str, Any], n_requests: int) -> None:
    """Raise if a variant did nothing: it would look fast."""
    reports = collected["reports"]
    failed = [report["error"] for report in reports.values() if report["error"]]
    if failed:
        raise RuntimeError(f"{variant}: {failed[0]}")
    if variant.startswith(("capture", "monitor", "lens")):
        from safetensors.numpy import load  # noqa: PLC0415

        tensors = load(collected["captures"])
        if variant == "capture":
            done = [int(value[0]) for name, value in tensors.items() if name.endswith("/count")]
        else:
            which = "/lens/0" if variant == "lens" else "/projections/0"
            done = [len(value) for name, value in tensors.items() if name.endswith(which)]
    else:
        done = [report["steered_prompt"] + report["steered_generated"] for report in reports.values()]
    if done != [n_positions] * n_requests:
        raise RuntimeError(
            f"{variant}: {n_positions} positions of {n_requests} requests were to be touched, not {done[:8]}"
        )


def cpu_seconds() -> float:
    """Seconds that this process has spent on all cores."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
