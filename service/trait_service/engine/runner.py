"""vLLM's V1 model runner with the plugin's three touches: after loading, before each forward pass, before sampling.

The class of a runner that vLLM has made is swapped for one of these, so that its construction stays vLLM's own.
"""

from typing import Any

import torch
from vllm.distributed import get_pp_group, get_tensor_model_parallel_rank
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from trait_service.engine import layers, operation, refusals
from trait_service.engine.runner_view import view_of_v1
from trait_service.engine.scheduler import FAILED_REQUESTS
from trait_service.engine.state import EngineShape, SteeringState
from trait_service.engine.vllm_repairs.cpu_lora import GroupedLoraMixin
from trait_service.engine.vllm_repairs.cpu_runner import RewoundSeedsMixin


class SteeringRunnerMixin:
    """Overrides of `GPUModelRunner` (V1). `trait_state` exists once the model is loaded."""

    trait_state: SteeringState

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load, then find the decoder layers and put the operation at their output (before profiling)."""
        super().load_model(*args, **kwargs)  # type: ignore[misc]
        self.trait_attach()

    def trait_attach(self) -> None:
        """Make the state and attach the operation.

        Raises:
            UnsupportedModelError: The model's layers were not found.
            UnsupportedEngineError: Steering is not tested with this engine configuration.
        """
        runner: Any = self
        config = runner.model_config
        n_layers = config.get_total_num_hidden_layers()
        self.trait_state = SteeringState(
            refusals.check(runner.vllm_config),
            EngineShape(
                n_layers=n_layers,
                d_model=config.get_hidden_size(),
                max_requests=runner.scheduler_config.max_num_seqs,
                max_tokens=runner.max_num_tokens,
                device=runner.device,
                captures=get_tensor_model_parallel_rank() == 0,
                sees_all_layers=get_pp_group().world_size == 1,
                each_position=get_pp_group().world_size == 1 and (runner.device.type == "cpu" or config.enforce_eager),
            ),
        )
        layers.attach(layers.decoder_layers(runner.get_model(), n_layers), self.trait_state)
        if not get_pp_group().is_first_rank and runner.intermediate_tensors is None:
            # vLLM makes them in a warm-up that its CPU worker skips where the model runs eager.
            runner.intermediate_tensors = runner.get_model().make_empty_intermediate_tensors(
                batch_size=runner.max_num_tokens, dtype=config.dtype, device=runner.device
            )

    def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
        self.trait_state.prepare(view_of_v1(self))
        with operation.bound(self.trait_state):
            output = super()._model_forward(*args, **kwargs)  # type: ignore[misc]
        self.trait_state.finish()
        return output

    def _dummy_run(self, *args: Any, **kwargs: Any) -> Any:
        # CUDA graphs are captured here: the kernels must be in them, acting on rows that say "nothing". What the last
        # step left behind must not meet made-up tokens (data parallelism runs dummies between steps).
        self.trait_state.rest(dummy=True)
        with operation.bound(self.trait_state):
            return super()._dummy_run(*args, **kwargs)  # type: ignore[misc]

    def _on_request_state_removed(self, req_id: str, req_state: Any) -> None:
        self.trait_state.remove(req_id)
        super()._on_request_state_removed(req_id, req_state)  # type: ignore[misc]

    def sample_tokens(self, grammar_output: Any) -> Any:
        """As vLLM does; the output tells the scheduler which requests could not be steered."""
        batch: Any = self.input_batch  # type: ignore[attr-defined]
        failed = [batch.req_ids[index] for index in self.trait_state.failed_indices()]
        output = super().sample_tokens(grammar_output)  # type: ignore[misc]
        if failed and isinstance(output, ModelRunnerOutput):
            setattr(output, FAILED_REQUESTS, failed)
        return output

    def _sample(self, logits: torch.Tensor | None, spec_decode_metadata: Any) -> Any:
        ending = self.trait_state.ending_indices()
        if ending and logits is not None:
            _end_at_once(logits, ending, self.trait_end_token())
        return super()._sample(logits, spec_decode_metadata)  # type: ignore[misc]

    def trait_end_token(self) -> int:
        """Token that ends a request which must not get more text."""
        runner: Any = self
        token = getattr(runner.model_config.hf_text_config, "eos_token_id", None)
        if isinstance(token, list):
            token = token[0] if token else None
        return 0 if token is None else int(token)


class TraitCPUModelRunner(  # type: ignore[misc]
    SteeringRunnerMixin, RewoundSeedsMixin, GroupedLoraMixin, CPUModelRunner
):
    """The CPU runner, steered."""


class TraitCUDAModelRunner(SteeringRunnerMixin, GPUModelRunner):  # type: ignore[misc]
    """The CUDA V1 runner, steered. Not yet run on a GPU."""


def _end_at_once(logits: torch.Tensor, rows: list[int], end_token: int) -> None:
    """Leave only the end token to these rows: no unsteered text is sampled, and none beyond a bound."""
    logits[rows] = float("-inf")
    logits[rows, end_token] = 0.0
