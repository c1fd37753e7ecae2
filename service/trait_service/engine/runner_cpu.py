"""vLLM's CPU model runners, steered."""

from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from trait_service.engine.runner_v1 import SteeringV1Mixin
from trait_service.engine.vllm_repairs.cpu_lora import GroupedLoraMixin
from trait_service.engine.vllm_repairs.cpu_runner import RewoundSeedsMixin


class TraitCPUModelRunner(  # type: ignore[misc]
    SteeringV1Mixin, RewoundSeedsMixin, GroupedLoraMixin, CPUModelRunner
):
    """The CPU's V1 runner, steered."""
