"""vLLM's V1 model runner with the plugin's touches: after loading, around each forward pass, and at its output."""

from typing import Any

from vllm.distributed import get_pp_group

from trait_service.engine import operation
from trait_service.engine.runner import SteeringRunnerMixin
from trait_service.engine.runner_view import view_of_v1


class SteeringV1Mixin(SteeringRunnerMixin):
    """Overrides of `vllm.v1.worker.gpu_model_runner.GPUModelRunner`."""

    def trait_attach(self) -> None:
        """As every runner does; a later stage of a pipeline gets its intermediate tensors."""
        super().trait_attach()
        runner: Any = self
        if not get_pp_group().is_first_rank and runner.intermediate_tensors is None:
            # vLLM makes them in a warm-up that its CPU worker skips where the model runs eager.
            runner.intermediate_tensors = runner.get_model().make_empty_intermediate_tensors(
                batch_size=runner.max_num_tokens, dtype=runner.model_config.dtype, device=runner.device
            )

    def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
        self.trait_state.prepare(view_of_v1(self))
        with operation.bound(self.trait_state):
            output = super()._model_forward(*args, **kwargs)  # type: ignore[misc]
        self.trait_end = self.trait_state.finish()
        return output

    def _on_request_state_removed(self, req_id: str, req_state: Any) -> None:
        self.trait_state.remove(req_id)
        super()._on_request_state_removed(req_id, req_state)  # type: ignore[misc]
