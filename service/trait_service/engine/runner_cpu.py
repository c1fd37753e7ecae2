"""vLLM's CPU model runners, steered."""

from vllm.v1.worker.cpu.model_runner import CPUModelRunner as V2ModelRunner
from vllm.v1.worker.cpu_model_runner import CPUModelRunner as V1ModelRunner

from trait_service.engine.runner_v1 import SteeringV1Mixin
from trait_service.engine.runner_v2 import SteeringV2Mixin
from trait_service.engine.vllm_repairs.cpu_lora import GroupedLoraMixin
from trait_service.engine.vllm_repairs.cpu_runner import RewoundSeedsMixin


class TraitCPUModelRunner(  # type: ignore[misc]
    SteeringV1Mixin, RewoundSeedsMixin, GroupedLoraMixin, V1ModelRunner
):
    """The CPU's V1 runner, steered."""


class TraitCPUModelRunnerV2(SteeringV2Mixin, V2ModelRunner):  # type: ignore[misc]
    """The CPU's V2 runner, steered; it needs Triton, and tests run it in Triton's interpreter."""
