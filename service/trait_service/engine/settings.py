"""The plugin's block in vLLM's `additional_config`: it switches the plugin on and shapes its buffers.

The block reaches every worker and is part of vLLM's compile-cache key, so that a graph compiled without our operation
is never served to an engine with it.
"""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from trait_service.engine.layer_rules import checked
from trait_service.engine.sites import parsed
from trait_service.engine.spec import EXTRA_ARGS_KEY
from trait_service.options import Cli

GRAPH_VERSION = 2
"""Raised whenever what is traced into the model's graph changes."""

CPU_WORKER = "trait_service.engine.worker_cpu.TraitCPUWorker"
CUDA_WORKER = "trait_service.engine.worker_cuda.TraitCUDAWorker"
SCHEDULER = "trait_service.engine.scheduler.TraitScheduler"
ASYNC_SCHEDULER = "trait_service.engine.scheduler.TraitAsyncScheduler"


class EngineSettings(BaseModel):
    """Sizes of the engine-side buffers; each but `graph_version` is an option of `trait-service serve`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    graph_version: Annotated[int, Cli(hidden=True)] = GRAPH_VERSION

    bank_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Distinct directions that live requests may use at once."""

    terms_per_layer: Annotated[int, Field(ge=1, le=32)] = 8
    """Steering terms of one request on one layer."""

    capture_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Pools being filled at once, over all requests; further activation requests wait. Each takes n_layers x d_model x 4 bytes
    on the device, twice that under asynchronous scheduling."""

    max_spool_bytes: Annotated[int, Field(ge=1)] = 4 * 2**30
    """Bytes on disk for activations of every position, over all running requests."""

    max_results_waiting: Annotated[int, Field(ge=1)] = 16384
    """Results that wait to be fetched before the oldest is dropped."""

    idle_graphs: bool = True
    """On CUDA with vLLM's V2 runner: capture each CUDA graph a second time without the steering kernel, for steps that steer,
    capture and monitor nothing."""

    layer_rule: Annotated[list[str], AfterValidator(checked)] = Field(default_factory=list)
    """Rule for a class of decoder layers that the service does not know, 'module.Class=rule'. The rule says where the stream is in
    what they return: pair (the sum of two tensors), first (of a tuple) or single (one tensor). May be given several times; run
    `trait-service verify` with it."""

    hook_points: Annotated[list[str], AfterValidator(parsed)] = Field(default_factory=list)
    """Hook points beside resid_post, with commas between them: attn_out (what the attention of a block adds to the stream),
    mlp_out (what its MLP or experts add), and head_out (what its attention heads put out, for capture only; Llama-like models).
    Each costs a further kernel per layer (default: none)."""

    allow_untested_vllm: bool = False
    """Start with a release of vLLM for which steering was not written."""

    def to_additional_config(self) -> dict[str, Any]:
        """The value for `VllmConfig.additional_config`."""
        return {EXTRA_ARGS_KEY: self.model_dump()}

    @classmethod
    def from_additional_config(cls, additional_config: dict[str, Any] | object) -> Self | None:
        """The settings of an engine; None if the plugin is off."""
        if not isinstance(additional_config, dict) or EXTRA_ARGS_KEY not in additional_config:
            return None
        return cls.model_validate(additional_config[EXTRA_ARGS_KEY])


def engine_args(settings: EngineSettings, *, cuda: bool, asynchronous: bool | None = None) -> dict[str, Any]:
    """Arguments for vLLM's `EngineArgs` (or `LLM`) that put the plugin into an engine.

    Args:
        settings: Sizes of the buffers.
        cuda: The engine runs on CUDA, else on the CPU.
        asynchronous: A step is prepared while the last one runs; None: as stock vLLM does, on CUDA only.
    """
    asynchronous = cuda if asynchronous is None else asynchronous
    return {
        "worker_cls": CUDA_WORKER if cuda else CPU_WORKER,
        "scheduler_cls": ASYNC_SCHEDULER if asynchronous else SCHEDULER,
        "async_scheduling": asynchronous,
        "additional_config": settings.to_additional_config(),
    }
