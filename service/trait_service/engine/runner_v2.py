"""vLLM's V2 model runner with the plugin's touches: after loading, around each forward pass, and at its output.

V2 does not keep a request's extra arguments, prepares its inputs in a method of its own, and captures CUDA graphs without
a dummy run.
"""

from typing import Any

from vllm.distributed import get_pp_group

from trait_service.engine import operation
from trait_service.engine.errors import UnsupportedEngineError
from trait_service.engine.idle_graphs import TwoGraphSets, UnmeasuredGraphs
from trait_service.engine.runner import SteeringRunnerMixin
from trait_service.engine.runner_view import ExtraArgs, view_of_v2


class SteeringV2Mixin(SteeringRunnerMixin):
    """Overrides of `vllm.v1.worker.gpu.model_runner.GPUModelRunner`."""

    trait_extra_args: dict[str, ExtraArgs]
    trait_unmeasured: UnmeasuredGraphs
    trait_prepared = False

    def trait_attach(self) -> None:
        """As every runner does.

        Raises:
            UnsupportedEngineError: The engine is a pipeline.
        """
        if get_pp_group().world_size > 1:
            raise UnsupportedEngineError(
                "pipeline parallelism on vLLM's V2 runner is not supported together with steering: start with --runner v1, or set "
                "VLLM_USE_V2_MODEL_RUNNER=0 and async_scheduling=False"
            )
        super().trait_attach()
        self.trait_extra_args = {}
        self.trait_unmeasured = UnmeasuredGraphs()

    def initialize_kv_cache(self, *args: Any, **kwargs: Any) -> None:
        """As vLLM does; the manager of the CUDA graphs, which is made here, gets a second set."""
        super().initialize_kv_cache(*args, **kwargs)  # type: ignore[misc]
        runner: Any = self
        if self.trait_state.settings.idle_graphs:
            TwoGraphSets.adopt(runner.cudagraph_manager, self.trait_state, self.trait_unmeasured)

    def profile_cudagraph_memory(self) -> int:
        """As vLLM does, for both sets."""
        measured: int = super().profile_cudagraph_memory()  # type: ignore[misc]
        return measured + self.trait_unmeasured.n_bytes

    def add_requests(self, scheduler_output: Any) -> None:
        """As vLLM does; keeps the extra arguments of new requests, and of those that come back after preemption."""
        for new in scheduler_output.scheduled_new_reqs:
            params = new.sampling_params
            self.trait_extra_args[new.req_id] = None if params is None else params.extra_args
        super().add_requests(scheduler_output)  # type: ignore[misc]

    def finish_requests(self, scheduler_output: Any) -> None:
        """As vLLM does; preempted requests, which vLLM removes too, keep their steering."""
        for request_id in scheduler_output.finished_req_ids:
            self.trait_extra_args.pop(request_id, None)
            self.trait_state.remove(request_id)
        super().finish_requests(scheduler_output)  # type: ignore[misc]

    def prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """As vLLM does; then the step's buffers are filled."""
        batch = super().prepare_inputs(*args, **kwargs)  # type: ignore[misc]
        runner: Any = self
        self.trait_state.prepare(view_of_v2(batch, runner.req_states, self.trait_extra_args))
        self.trait_prepared = True
        return batch

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """As vLLM does, with the operation acting on the step's requests."""
        self.trait_prepared = False
        with operation.bound(self.trait_state):
            output = super().execute_model(scheduler_output, *args, **kwargs)  # type: ignore[misc]
        if self.trait_prepared:
            self.trait_end = self.trait_state.finish()
        return output

    def capture_model(self, *args: Any, **kwargs: Any) -> Any:
        """As vLLM does; the graphs hold the operation, acting on no request."""
        with self.trait_dummy():
            return super().capture_model(*args, **kwargs)  # type: ignore[misc]
