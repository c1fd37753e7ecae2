"""vLLM configurations that steering is not tested with: refused at start-up, by the command line and by every worker.

The command line reads vLLM's arguments and can name the flag before anything is loaded; a worker reads the configuration
that came of them, whoever built the engine. No heavy imports: the command line loads this before the environment is set.
"""

import logging
import os
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from trait_service.compat.versions import SUPPORTED, installed_vllm, is_supported, version_refusal
from trait_service.engine.errors import UnsupportedEngineError
from trait_service.engine.settings import ASYNC_SCHEDULER, SCHEDULER, EngineSettings

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig
    from vllm.platforms.interface import Platform

logger = logging.getLogger(__name__)

_BREAKABLE_GRAPHS = (
    "breakable CUDA graphs are not supported together with steering: vLLM turns them on for some architectures and for "
    "VLLM_BATCH_INVARIANT=1; set VLLM_USE_BREAKABLE_CUDAGRAPH=0"
)
_INT4_IN_FLOAT32 = "INT4 weights run in bfloat16 on the CPU, not in float32: start with --dtype bfloat16"


@dataclass(frozen=True)
class EngineOptions:
    """An engine's configuration, as far as steering depends on it.

    Args:
        draft_tokens: Several tokens of a request in one decode step: the reports and scopes are not tested with them.
        micro_batches: A step runs as two batches at once; the step's rows are one.
        context_parallel: A worker sees some of a request's positions.
        connector: Key-value blocks come from elsewhere: positions that never pass the layers.
        fast_prefill: Later layers see the last prompt positions only.
        sequence_parallel: A layer sees some of the step's tokens only. With experts it comes on by itself.
        breakable_graphs: The model runs in pieces between captured graphs: what a piece captures is not tested.
        diffusion: A token is computed several times, and may change, before it counts.
        lockstep: Engines of a mixture of experts run dummy steps to stay in step with each other.
    """

    draft_tokens: bool
    micro_batches: bool
    context_parallel: bool
    connector: bool
    fast_prefill: bool
    sequence_parallel: bool
    breakable_graphs: bool
    diffusion: bool
    lockstep: bool = False

    @classmethod
    def of_arguments(cls, args: Namespace) -> Self:
        """From vLLM's parsed arguments."""
        return cls(
            draft_tokens=bool(args.speculative_config),
            micro_batches=bool(args.enable_dbo) or args.ubatch_size > 0,
            context_parallel=args.prefill_context_parallel_size > 1 or args.decode_context_parallel_size > 1,
            connector=bool(args.kv_transfer_config) or args.kv_offloading_size is not None,
            fast_prefill=bool(args.kv_sharing_fast_prefill),
            sequence_parallel=_splits_tokens(args),
            breakable_graphs=_breaks_graphs(),
            diffusion=args.diffusion_config is not None,
        )

    @classmethod
    def of_config(cls, config: "VllmConfig") -> Self:
        """From a `VllmConfig`, as a worker has it."""
        parallel = config.parallel_config
        return cls(
            draft_tokens=config.speculative_config is not None,
            micro_batches=parallel.use_ubatching,
            context_parallel=parallel.prefill_context_parallel_size > 1 or parallel.decode_context_parallel_size > 1,
            connector=config.kv_transfer_config is not None,
            fast_prefill=config.cache_config.kv_sharing_fast_prefill,
            sequence_parallel=_splits_tokens(parallel),
            breakable_graphs=_breaks_graphs(),
            diffusion=config.diffusion_config is not None,
            lockstep=config.model_config.is_moe and parallel.data_parallel_size > 1,
        )

    def refusals(self) -> list[str]:
        """One sentence for each choice that steering has no test for."""
        named = {
            "speculative decoding (--speculative-config)": self.draft_tokens,
            "micro-batch overlap (--enable-dbo, --ubatch-size)": self.micro_batches,
            "context parallelism (--prefill-context-parallel-size, --decode-context-parallel-size)": self.context_parallel,
            "a KV connector (--kv-transfer-config, --kv-offloading-size)": self.connector,
            "KV-sharing fast prefill (--kv-sharing-fast-prefill)": self.fast_prefill,
            "sequence parallelism (--enable-hc-sp, or --enable-expert-parallel with tensor and data parallelism)": (
                self.sequence_parallel
            ),
            "diffusion decoding (--diffusion-config)": self.diffusion,
            "data parallelism of a mixture of experts (--data-parallel-size)": self.lockstep,
        }
        problems = [refusal(what) for what, chosen in named.items() if chosen]
        return problems + ([_BREAKABLE_GRAPHS] if self.breakable_graphs else [])


def refusal(what: str) -> str:
    """The sentence that refuses."""
    return f"{what} is not supported together with steering: leave it out"


def platform_refusal(platform: "Platform") -> str | None:
    """The sentence that refuses vLLM's platform; None for CUDA and the CPU, for which there are workers."""
    if platform.is_cuda() or platform.is_cpu():
        return None
    if platform.is_unspecified():
        return "vLLM found no device to run on: steering runs on NVIDIA GPUs (CUDA) and on CPUs"
    name = {"rocm": "ROCm", "tpu": "TPU", "xpu": "XPU"}.get(platform.device_name, platform.device_name)
    return f"{name} is not supported: steering runs on NVIDIA GPUs (CUDA) and on CPUs"


def check(config: "VllmConfig") -> EngineSettings:
    """The plugin's settings of an engine; refuses one that steering was not tested with.

    Args:
        config: A worker's `VllmConfig`.

    Raises:
        UnsupportedEngineError: With every reason.
    """
    from vllm.platforms import current_platform  # noqa: PLC0415 - a worker has vLLM loaded, the command line has not

    settings = EngineSettings.from_additional_config(config.additional_config)
    allow_untested = settings is not None and settings.allow_untested_vllm
    of_all = (version_refusal(allow_untested=allow_untested), platform_refusal(current_platform))
    problems = [problem for problem in of_all if problem is not None] + EngineOptions.of_config(config).refusals()
    if settings is None:
        problems.append("worker_cls is the trait-steering worker, but additional_config holds no block for it")
    scheduler = ASYNC_SCHEDULER if config.scheduler_config.async_scheduling else SCHEDULER
    if config.scheduler_config.scheduler_cls != scheduler:
        problems.append(
            f"scheduler_cls is {config.scheduler_config.scheduler_cls!r}: steered requests would share prefix-cache "
            f"blocks with others; it must be {scheduler!r} (as `engine_args` sets it)"
        )
    problems += model_refusals(config.model_config)
    on_cpu = config.device_config.device_type == "cpu"
    quantisation = getattr(config.model_config.hf_config, "quantization_config", None) or {}
    if on_cpu and str(config.model_config.dtype) == "torch.float32" and has_int4_weights(quantisation):
        problems.append(_INT4_IN_FLOAT32)
    if problems or settings is None:
        raise UnsupportedEngineError("; ".join(problems))
    if not is_supported(installed_vllm()):
        logger.warning("steering was not tested with vLLM %s (supported: %s)", installed_vllm(), SUPPORTED)
    return settings


def model_refusals(model: "ModelConfig") -> list[str]:
    """One sentence for each reason why a model of its kind cannot be steered, whatever its layers return.

    Args:
        model: vLLM's configuration of the model.
    """
    problems = []
    if model.is_encoder_decoder:
        problems.append(
            "an encoder-decoder model is not supported: part of what it writes is decided in the encoder, whose positions and "
            "layers have no place in a request; steer a model that is a decoder only"
        )
    if model.runner_type != "generate":
        problems.append(
            f"a model with --runner {model.runner_type} writes no text that could be steered: serve it with vLLM itself, or with "
            "--runner generate"
        )
    return problems


def sleep_refusal(level: int) -> str | None:
    """The sentence that refuses a level of sleep from which the buffers of steering would come back as garbage.

    Level 1 copies the memory that the weights were loaded into to the host and back, and the buffers are in it. Level 2
    discards it, and vLLM restores nothing but the model's own buffers.
    """
    if level <= 1:
        return None
    return (
        f"sleep level {level} is not supported together with steering: it discards the vectors and tables on the device. "
        "Wake the engine up (POST /wake_up), since vLLM has paused it, then use level 1"
    )


def has_int4_weights(quantisation: Mapping[str, Any]) -> bool:
    """True if the `quantization_config` of a model's config.json says INT4, for which vLLM's CPU kernel takes no float32."""
    groups = (quantisation.get("config_groups") or {}).values()
    weights = [group.get("weights") or {} for group in groups]
    return quantisation.get("bits") == 4 or any(w.get("type") == "int" and w.get("num_bits") == 4 for w in weights)


def _breaks_graphs() -> bool:
    # vLLM itself sets the variable while it makes the configuration.
    return os.environ.get("VLLM_USE_BREAKABLE_CUDAGRAPH", "0") == "1"


def _splits_tokens(parallel: Any) -> bool:
    of_experts = parallel.enable_expert_parallel and parallel.tensor_parallel_size > 1
    return bool(parallel.enable_hc_sp or (of_experts and parallel.data_parallel_size > 1))
