"""vLLM's V1 model runner with the plugin's three touches: after loading, before each forward pass, before sampling.

The class of a runner that vLLM has made is swapped for one of these, so that its construction stays vLLM's own.
"""

from typing import Any

import torch
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from trait_service.engine import layers, operation
from trait_service.engine.errors import UnsupportedEngineError
from trait_service.engine.settings import EngineSettings
from trait_service.engine.state import SteeringState
from trait_service.engine.step import view_of_v1


class SteeringRunnerMixin:
    """Overrides of `GPUModelRunner` (V1). `trait_state` is there once the model is loaded."""

    trait_state: SteeringState

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load, then find the decoder layers and put the operation at their output (before profiling)."""
        super().load_model(*args, **kwargs)  # type: ignore[misc]
        self.trait_attach()

    def trait_attach(self) -> None:
        """Make the state and attach the operation.

        Raises:
            UnsupportedModelError: The model's layers were not found.
            UnsupportedEngineError: The engine's configuration is one that steering was not tested with.
        """
        runner: Any = self
        config = runner.model_config
        settings = EngineSettings.from_additional_config(runner.vllm_config.additional_config)
        if settings is None:
            raise UnsupportedEngineError(
                "worker_cls is the trait-steering worker, but additional_config holds no block for it"
            )
        if runner.scheduler_config.async_scheduling:
            # A step is then prepared while the last one runs, and may compute one position past a reply's end.
            raise UnsupportedEngineError("asynchronous scheduling is not supported: start with --no-async-scheduling")
        n_layers = config.get_total_num_hidden_layers()
        self.trait_state = SteeringState(
            settings,
            n_layers=n_layers,
            d_model=config.get_hidden_size(),
            max_requests=runner.scheduler_config.max_num_seqs,
            max_tokens=runner.max_num_tokens,
            device=runner.device,
            captures=get_tensor_model_parallel_rank() == 0,
        )
        layers.attach(layers.decoder_layers(runner.get_model(), n_layers))

    def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
        self.trait_state.prepare(view_of_v1(self))
        with operation.bound(self.trait_state):
            return super()._model_forward(*args, **kwargs)  # type: ignore[misc]

    def _dummy_run(self, *args: Any, **kwargs: Any) -> Any:
        # CUDA graphs are captured here: the kernels must be in them, acting on rows that say "nothing". What the last
        # step left behind must not meet made-up tokens (data parallelism runs dummies between steps).
        self.trait_state.rest()
        with operation.bound(self.trait_state):
            return super()._dummy_run(*args, **kwargs)  # type: ignore[misc]

    def _on_request_state_removed(self, req_id: str, req_state: Any) -> None:
        self.trait_state.remove(req_id)
        super()._on_request_state_removed(req_id, req_state)  # type: ignore[misc]

    def _sample(self, logits: torch.Tensor | None, spec_decode_metadata: Any) -> Any:
        failed = self.trait_state.failed_indices()
        if failed and logits is not None:
            _end_at_once(logits, failed, self.trait_end_token())
        return super()._sample(logits, spec_decode_metadata)  # type: ignore[misc]

    def trait_end_token(self) -> int:
        """The token that ends a request which must not get text."""
        runner: Any = self
        token = getattr(runner.model_config.hf_text_config, "eos_token_id", None)
        if isinstance(token, list):
            token = token[0] if token else None
        return 0 if token is None else int(token)


class TraitCPUModelRunner(SteeringRunnerMixin, CPUModelRunner):
    """The CPU runner, steered."""


class TraitCUDAModelRunner(SteeringRunnerMixin, GPUModelRunner):
    """The CUDA V1 runner, steered. Untested until a GPU has run it."""


def _end_at_once(logits: torch.Tensor, rows: list[int], end_token: int) -> None:
    """Leave only the end token to rows whose steering failed: no unsteered text is ever sampled."""
    logits[rows] = float("-inf")
    logits[rows, end_token] = 0.0
