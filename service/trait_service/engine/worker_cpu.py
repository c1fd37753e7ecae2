"""vLLM's CPU worker, steered."""

from vllm.v1.worker.cpu_worker import CPUWorker

from trait_service.engine.runner import adopt
from trait_service.engine.runner_cpu import TraitCPUModelRunner, TraitCPUModelRunnerV2
from trait_service.engine.worker import SteeringWorkerMixin


class TraitCPUWorker(SteeringWorkerMixin, CPUWorker):  # type: ignore[misc]
    """vLLM's CPU worker, steered."""

    def init_device(self) -> None:
        """As vLLM does; then the runner becomes ours."""
        super().init_device()
        adopt(self.model_runner, (TraitCPUModelRunner, TraitCPUModelRunnerV2))
