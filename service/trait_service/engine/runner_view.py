"""The step view: what both of vLLM's model runners say of one step, in one shape.

V1 (`v1/worker/gpu_model_runner.py`, and the CPU runner on top of it) is what the CPU has and `--runner v1` selects; V2
(`v1/worker/gpu/model_runner.py`) is the default on CUDA.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

ExtraArgs = Mapping[str, object] | None


@dataclass(frozen=True)
class StepView:
    """One step's batch, in the order of its tokens in the hidden states.

    Args:
        request_ids: `n_requests` engine ids.
        n_scheduled: `(n_requests,)` tokens of each request in this step.
        n_computed: `(n_requests,)` absolute position of each request's first token in this step.
        n_prompt: Request id -> length of its original prompt, whatever was preempted or resumed.
        extra_args: Request id -> its `SamplingParams.extra_args`.
        input_ids: On the device: the tokens, as far as they are steered; None: not known.
    """

    request_ids: list[str]
    n_scheduled: np.ndarray
    n_computed: np.ndarray
    n_prompt: Callable[[str], int]
    extra_args: Callable[[str], ExtraArgs]
    input_ids: torch.Tensor | None = None


def view_of_v1(runner: Any) -> StepView:
    """The step of a V1 runner, inside `_model_forward` (after `_update_states` and `_prepare_inputs`)."""
    batch = runner.input_batch
    n = batch.num_reqs
    requests = runner.requests

    def extra_args(request_id: str) -> ExtraArgs:
        params = requests[request_id].sampling_params
        return None if params is None else params.extra_args

    return StepView(
        request_ids=batch.req_ids[:n],
        n_scheduled=np.diff(runner.query_start_loc.np[: n + 1]),
        n_computed=batch.num_computed_tokens_cpu[:n],
        n_prompt=lambda request_id: requests[request_id].num_prompt_tokens,
        extra_args=extra_args,
        input_ids=runner.input_ids.gpu,
    )


def view_of_v2(input_batch: Any, request_states: Any, extra_args: Mapping[str, ExtraArgs]) -> StepView:
    """The step of a V2 runner, from its `ModelState.prepare_inputs(input_batch, req_states)`.

    Args:
        input_batch: V2's `InputBatch`.
        request_states: V2's `RequestState`: persistent, indexed by request slot.
        extra_args: Request id -> extra args, kept by `ModelState.add_request`, since V2 does not store them.
    """
    n = input_batch.num_reqs
    return StepView(
        request_ids=input_batch.req_ids[:n],
        n_scheduled=input_batch.num_scheduled_tokens[:n],
        n_computed=input_batch.num_computed_tokens_np[:n],
        n_prompt=lambda request_id: int(request_states.prompt_len.np[request_states.req_id_to_index[request_id]]),
        extra_args=extra_args.get,
        input_ids=input_batch.input_ids,
    )
