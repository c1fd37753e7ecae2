"""vLLM configurations that steering is not tested with: refused at start-up, by the command line and by every worker.

The command line reads vLLM's arguments and can name the flag before anything is loaded; a worker reads the configuration
that came of them, whoever built the engine. No heavy imports: the command line loads this before the environment is set.
"""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from trait_service.engine.errors import UnsupportedEngineError
from trait_service.engine.settings import ASYNC_SCHEDULER, SCHEDULER, EngineSettings

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
        lockstep: Engines of a mixture of experts run dummy steps to stay in step with each other.
    """

    draft_tokens: bool
    micro_batches: bool
    context_parallel: bool
    connector: bool
    fast_prefill: bool
    sequence_parallel: bool
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
        )

    @classmethod
    def of_config(cls, config: Any) -> Self:
        """From a `VllmConfig`, as a worker has it."""
        parallel = config.parallel_config
        return cls(
            draft_tokens=config.speculative_config is not None,
            micro_batches=parallel.use_ubatching,
            context_parallel=parallel.prefill_context_parallel_size > 1 or parallel.decode_context_parallel_size > 1,
            connector=config.kv_transfer_config is not None,
            fast_prefill=config.cache_config.kv_sharing_fast_prefill,
            sequence_parallel=_splits_tokens(parallel),
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
            "data parallelism of a mixture of experts (--data-parallel-size)": self.lockstep,
        }
        return [refusal(what) for what, chosen in named.items() if chosen]


def refusal(what: str) -> str:
    """The sentence that refuses."""
    return f"{what} is not supported together with steering: leave it out"


def check(config: Any) -> EngineSettings:
    """The plugin's settings of an engine; refuses one that steering was not tested with.

    Args:
        config: A worker's `VllmConfig`.

    Raises:
        UnsupportedEngineError: With every reason.
    """
    problems = EngineOptions.of_config(config).refusals()
    settings = EngineSettings.from_additional_config(config.additional_config)
    if settings is None:
        problems.append("worker_cls is the trait-steering worker, but additional_config holds no block for it")
    scheduler = ASYNC_SCHEDULER if config.scheduler_config.async_scheduling else SCHEDULER
    if config.scheduler_config.scheduler_cls != scheduler:
        problems.append(
            f"scheduler_cls is {config.scheduler_config.scheduler_cls!r}: steered requests would share prefix-cache "
            f"blocks with others; it must be {scheduler!r} (as `engine_args` sets it)"
        )
    on_cpu = config.device_config.device_type == "cpu"
    quantisation = getattr(config.model_config.hf_config, "quantization_config", None) or {}
    if on_cpu and str(config.model_config.dtype) == "torch.float32" and has_int4_weights(quantisation):
        problems.append(_INT4_IN_FLOAT32)
    if problems or settings is None:
        raise UnsupportedEngineError("; ".join(problems))
    return settings


def has_int4_weights(quantisation: Mapping[str, Any]) -> bool:
    """True if the `quantization_config` of a model's config.json says INT4, for which vLLM's CPU kernel takes no float32."""
    groups = (quantisation.get("config_groups") or {}).values()
    weights = [group.get("weights") or {} for group in groups]
    return quantisation.get("bits") == 4 or any(w.get("type") == "int" and w.get("num_bits") == 4 for w in weights)


def _splits_tokens(parallel: Any) -> bool:
    of_experts = parallel.enable_expert_parallel and parallel.tensor_parallel_size > 1
    return bool(parallel.enable_hc_sp or (of_experts and parallel.data_parallel_size > 1))
