"""vLLM's CUDA model runners, steered."""

from vllm.v1.worker.gpu.model_runner import GPUModelRunner as V2ModelRunner
from vllm.v1.worker.gpu_model_runner import GPUModelRunner as V1ModelRunner

from trait_service.engine.runner_v1 import SteeringV1Mixin
from trait_service.engine.runner_v2 import SteeringV2Mixin


class TraitCUDAModelRunner(SteeringV1Mixin, V1ModelRunner):  # type: ignore[misc]
    """The CUDA V1 runner, steered."""


class TraitCUDAModelRunnerV2(SteeringV2Mixin, V2ModelRunner):  # type: ignore[misc]
    """The CUDA V2 runner, steered: what stock vLLM runs."""
