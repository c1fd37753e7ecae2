"""A second set of CUDA graphs on vLLM's V2 runner, which hold no launch of ours: idle steps replay it, as in stock vLLM.

Both sets are of the same shapes and come from the same compiled code. Which one a step replays is read where it is
replayed, from the state that the step's inputs have just brought up to date.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from vllm.config.compilation import CUDAGraphMode
from vllm.forward_context import get_forward_context
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor, ModelCudaGraphManager

from trait_service.engine import operation
from trait_service.engine.state import SteeringState

logger = logging.getLogger(f"vllm.{__name__}")  # in an engine's process, INFO is printed of vLLM's loggers alone

LEAST_GRAPH_BYTES = 1 << 20
"""Bytes of a graph that was not measured: what vLLM takes as the least for one of its own."""


@dataclass
class UnmeasuredGraphs:
    """Memory of the second set that vLLM's profile of graph memory does not see: it captures a sample of the full graphs."""

    n_bytes: int = 0


class TwoGraphSets(ModelCudaGraphManager):  # type: ignore[misc]
    """vLLM's manager of the model's graphs, with two for each of its descriptors.

    `graphs` holds those with the launches, which serve any step. `trait_captures` is None unless a set is captured: True
    for the second one.
    """

    trait_state: SteeringState
    trait_unmeasured: UnmeasuredGraphs
    trait_idle_graphs: dict[BatchExecutionDescriptor, torch.cuda.CUDAGraph]
    trait_captures: bool | None = None

    @classmethod
    def adopt(cls, manager: Any, state: SteeringState, unmeasured: UnmeasuredGraphs) -> None:
        """Give a manager that has captured nothing its second set.

        Args:
            manager: As vLLM made it.
            state: The runner's; it knows if a step is idle.
            unmeasured: Where a capture for vLLM's memory profile leaves what the profile does not see.
        """
        manager.__class__ = cls
        manager.trait_state = state
        manager.trait_unmeasured = unmeasured
        manager.trait_idle_graphs = {}

    def capture(self, *args: Any, **kwargs: Any) -> None:
        """As vLLM does, then once more with the operation doing nothing."""
        with self._capturing(idle=False):
            super().capture(*args, **kwargs)
        began, free = time.perf_counter(), torch.accelerator.get_memory_info()[0]
        samples = self._capture_mem_samples  # a list while vLLM profiles
        sampled: list[int] | None = None if samples is None else []
        self._capture_mem_samples = sampled
        try:
            with self._capturing(idle=True), self._idle_set(), operation.unbound():
                super().capture(*args, **kwargs)
        finally:
            self._capture_mem_samples = samples
        if sampled is not None:
            self.trait_unmeasured.n_bytes = self._beyond(sampled)
            return
        logger.info(
            "graphs for steps that steer nothing: captured in %.1f s, took %.2f GiB (--no-idle-graphs leaves them out)",
            time.perf_counter() - began,
            (free - torch.accelerator.get_memory_info()[0]) / (1 << 30),
        )

    def run_fullgraph(self, desc: BatchExecutionDescriptor) -> Any:
        """As vLLM does, from the set of the step."""
        if not self._is_idle():
            return super().run_fullgraph(desc)
        with self._idle_set():
            return super().run_fullgraph(desc)

    def run_pw_graph(self, model: Any, model_inputs: dict[str, Any]) -> Any:
        """As vLLM does; the pieces find their graphs by the forward context's descriptor, which names the set."""
        if self._is_idle():
            context = get_forward_context()
            assert context.batch_descriptor is not None, "vLLM gives one wherever pieces are captured or replayed"
            # vLLM's V2 runner leaves this field at False.
            context.batch_descriptor = replace(context.batch_descriptor, uniform=True)
        return super().run_pw_graph(model, model_inputs)

    def release_graphs(self) -> None:
        """As vLLM does, of both sets."""
        super().release_graphs()
        self.trait_idle_graphs.clear()

    def _is_idle(self) -> bool:
        """True if the second set is captured, or serves this step.

        Raises:
            RuntimeError: The step has active tokens all the same: it would be served unsteered.
        """
        if self.trait_captures is not None:
            return self.trait_captures
        if not self.trait_state.idle:
            return False
        if self.trait_state.n_active:
            raise RuntimeError(
                f"an idle step has {self.trait_state.n_active} active tokens: its graphs would not steer them; "
                "start with --no-idle-graphs and report this"
            )
        return True

    @contextmanager
    def _capturing(self, *, idle: bool) -> Iterator[None]:
        self.trait_captures = idle
        try:
            yield
        finally:
            self.trait_captures = None

    @contextmanager
    def _idle_set(self) -> Iterator[None]:
        launching, self.graphs = self.graphs, self.trait_idle_graphs
        try:
            yield
        finally:
            self.graphs = launching

    def _beyond(self, sampled: list[int]) -> int:
        """Bytes of the full graphs that a profile leaves out, by the last one that it captured."""
        n_graphs = len(self._capture_descs.get(CUDAGraphMode.FULL, []))
        return (n_graphs - len(sampled)) * max(sampled[-1], LEAST_GRAPH_BYTES) if sampled else 0
