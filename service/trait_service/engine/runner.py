"""Common part of all steered model runners: the class swap, and the state and operation of a loaded model.

The class of a runner that vLLM has made is swapped for a steered subclass, so that its construction stays vLLM's own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import nn
from trait_core.schema import HEAD_OUT
from vllm.distributed import get_pp_group, get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size

from trait_service.engine import branches, heads, layers, operation, refusals, sites
from trait_service.engine.engine_shape import EngineShape
from trait_service.engine.errors import UnsupportedEngineError
from trait_service.engine.head_shape import HeadShape
from trait_service.engine.layer_lists import decoder_layers
from trait_service.engine.state import SteeringState
from trait_service.engine.step_end import EndOfStep
from trait_service.engine.step_output import with_verdict
from trait_service.engine.stream_lens import StreamLens


class SteeringRunnerMixin:
    """A model runner with a steering state, `trait_state`, which exists once the model is loaded.

    `trait_end` is the end of the last step, until its output is made.
    """

    trait_state: SteeringState
    trait_end: EndOfStep | None = None

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load, then find the decoder layers and put the operation at their output (before profiling)."""
        super().load_model(*args, **kwargs)  # type: ignore[misc]
        self.trait_attach()

    def trait_attach(self) -> None:
        """Make the state and attach the operation.

        Raises:
            UnsupportedModelError: The model's layers were not found, or what they return is not known.
            UnsupportedEngineError: Steering is not tested with this engine configuration.
        """
        runner: Any = self
        config = runner.model_config
        n_layers = config.get_total_num_hidden_layers()
        settings = refusals.check(runner.vllm_config)
        hook_points = sites.parsed(settings.hook_points)
        found = decoder_layers(runner.get_model(), n_layers)
        layers.refuse(found, config.dtype, get_tensor_model_parallel_world_size())
        self.trait_state = SteeringState(
            settings,
            EngineShape(
                n_layers=n_layers,
                d_model=config.get_hidden_size(),
                max_requests=runner.scheduler_config.max_num_seqs,
                max_tokens=runner.max_num_tokens,
                device=runner.device,
                asynchronous=bool(runner.scheduler_config.async_scheduling),
                captures=get_tensor_model_parallel_rank() == 0,
                sees_all_layers=get_pp_group().world_size == 1,
                each_position=get_pp_group().world_size == 1 and (runner.device.type == "cpu" or config.enforce_eager),
                hook_points=sites.of_blocks(hook_points),
                heads=self._trait_heads(found) if HEAD_OUT in hook_points else None,
            ),
        )
        layers.attach(found, self.trait_state)
        branches.attach(found, self.trait_state, get_tensor_model_parallel_world_size())
        heads.attach(found, self.trait_state)
        self.trait_state.lens = StreamLens(
            runner.get_model(),
            found,
            n_layers,
            runner.scheduler_config.max_num_seqs,
            ends=get_pp_group().is_last_rank,
            captures=self.trait_state.shape.captures,
            n_ranks=get_tensor_model_parallel_world_size(),
        )

    def _trait_heads(self, found: Mapping[int, nn.Module]) -> HeadShape:
        config = cast("Any", self).model_config
        n_heads, n_ranks = config.hf_text_config.num_attention_heads, get_tensor_model_parallel_world_size()
        return heads.shape_of(found, n_heads, config.get_hidden_size(), n_ranks)

    def _dummy_run(self, *args: Any, **kwargs: Any) -> Any:
        with self.trait_dummy():
            return super()._dummy_run(*args, **kwargs)  # type: ignore[misc]

    @contextmanager
    def trait_dummy(self) -> Iterator[None]:
        """Let the operation run on made-up tokens: it is compiled and captured, and acts on no request.

        Data parallelism runs dummies between steps: what the last step left behind must not meet their tokens.
        """
        self.trait_state.rest(dummy=True)
        with operation.bound(self.trait_state):
            yield

    def sample_tokens(self, grammar_output: Any) -> Any:
        """As vLLM does; the output tells the scheduler which requests get no more text."""
        end, self.trait_end = self.trait_end, None
        output = super().sample_tokens(grammar_output)  # type: ignore[misc]
        return output if end is None else with_verdict(output, end.verdict)


def adopt(runner: Any, steered: Sequence[type]) -> None:
    """Swap the class of a runner for its steered subclass.

    Args:
        runner: As vLLM made it.
        steered: Steered subclasses, one for each runner that may be steered.

    Raises:
        UnsupportedEngineError: vLLM made another runner than those that the subclasses extend.
    """
    for subclass in steered:
        if type(runner) in subclass.__mro__:
            runner.__class__ = subclass
            return
    raise UnsupportedEngineError(
        f"model runner {type(runner).__module__}.{type(runner).__name__} is not supported: steering extends "
        + ", ".join(f"{base.__module__}.{base.__name__}" for base in (each.__mro__[-2] for each in steered))
    )
