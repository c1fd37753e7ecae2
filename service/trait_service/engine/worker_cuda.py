"""vLLM's CUDA worker, steered.

Nothing here may import vLLM's CPU worker, directly or through another module: it replaces torch's CUDA streams and events
in the whole process (tests/unit/test_cuda_import.py).
"""

from typing import Any

from vllm.v1.worker.gpu_worker import Worker

from trait_service.engine.runner import adopt
from trait_service.engine.runner_cuda import TraitCUDAModelRunner, TraitCUDAModelRunnerV2
from trait_service.engine.worker import SteeringWorkerMixin


class TraitCUDAWorker(SteeringWorkerMixin, Worker):  # type: ignore[misc]
    """vLLM's CUDA worker, steered."""

    def _make_model_runner(self) -> Any:
        runner = super()._make_model_runner()
        adopt(runner, (TraitCUDAModelRunnerV2, TraitCUDAModelRunner))
        return runner
