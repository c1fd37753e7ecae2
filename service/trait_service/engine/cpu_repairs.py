# ruff: noqa: SLF001 - a subclass of vLLM's runner, which reaches into what the runner is made of
"""What vLLM 0.32's runner gets wrong on the CPU, put right in a subclass of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch


class RewoundSeedsMixin:
    """A request with a seed draws nothing for a token that is thrown away.

    vLLM samples a token for every row of a step, those amid their prompt too, and then turns those rows' generators back by an
    offset that only CUDA's generators have: on the CPU a seeded request whose prompt is read in pieces ends the engine.
    Here the generators of such rows are put back to the state that they had.
    """

    input_batch: Any
    discard_request_mask: Any

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        before = {index: generator.get_state() for index, generator in self._unfinished_prompts().items()}
        output = super()._sample(*args, **kwargs)  # type: ignore[misc]
        for index, state in before.items():
            self.input_batch.generators[index].set_state(state)
        return output

    def _bookkeeping_sync(self, *args: Any, **kwargs: Any) -> Any:
        with self._without(self._unfinished_prompts()):
            return super()._bookkeeping_sync(*args, **kwargs)  # type: ignore[misc]

    def _unfinished_prompts(self) -> dict[int, torch.Generator]:
        """Seeded rows whose token of this step does not count."""
        generators: dict[int, torch.Generator] = self.input_batch.generators
        if not generators:
            return {}
        rows = np.flatnonzero(self.discard_request_mask.np[: self.input_batch.num_reqs])
        return {int(row): generators[int(row)] for row in rows if int(row) in generators}

    @contextmanager
    def _without(self, generators: Mapping[int, torch.Generator]) -> Any:
        """Leave nothing for vLLM to turn back."""
        everything: dict[int, torch.Generator] = self.input_batch.generators
        for row in generators:
            del everything[row]
        try:
            yield
        finally:
            everything.update(generators)


class PromptLogprobsLoraMixin:
    """Prompt log-probabilities beside LoRA adapters: each prompt is read with its own request's adapter.

    vLLM's CPU kernels take the adapters of the step's sampled tokens, one for each request, for the positions of a prompt too:
    where there are not as many positions as requests the engine ends, and where there are they get others' adapters. Here
    prompts are read one at a time, with the request's slot at every position.
    """

    input_batch: Any
    lora_config: Any
    lora_manager: Any
    num_prompt_logprobs: dict[str, int]

    def _get_prompt_logprobs_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if self.lora_config is None:
            return super()._get_prompt_logprobs_dict(*args, **kwargs)  # type: ignore[misc, no-any-return]
        everything = self.num_prompt_logprobs
        found: dict[str, Any] = {}
        try:
            for request_id, wanted in list(everything.items()):
                self.num_prompt_logprobs = {request_id: wanted}
                with self._slot_of(request_id):
                    found |= super()._get_prompt_logprobs_dict(*args, **kwargs)  # type: ignore[misc]
                if not self.num_prompt_logprobs:
                    del everything[request_id]
        finally:
            self.num_prompt_logprobs = everything
        return found

    @contextmanager
    def _slot_of(self, request_id: str) -> Iterator[None]:
        """Have every row of logits take the slot of this request; one that is not in this step has none to take."""
        row = self.input_batch.req_id_to_index.get(request_id)
        wrappers = list(self.lora_manager._adapter_manager.punica_wrapper_mapping.values()) if row is not None else []
        kept = [(wrapper, wrapper._sampler_indices, wrapper.indices_len[1]) for wrapper in wrappers]
        for wrapper, indices, _ in kept:
            wrapper.add_lora_logits = partial(_add_with_slot, wrapper, indices[row : row + 1])
        try:
            yield
        finally:
            for wrapper, indices, length in kept:
                del wrapper.add_lora_logits
                wrapper._sampler_indices, wrapper.indices_len[1] = indices, length


def _add_with_slot(
    wrapper: Any, slot: torch.Tensor, y: torch.Tensor, x: torch.Tensor, *args: Any, **kwargs: Any
) -> Any:
    wrapper._sampler_indices, wrapper.indices_len[1] = slot.expand(len(x)), len(x)
    return type(wrapper).add_lora_logits(wrapper, y, x, *args, **kwargs)


class SpareLoraSlotMixin:
    """Requests of the base model keep it, whoever else uses a LoRA adapter in the same batch.

    vLLM's CPU kernels look up "no adapter" as slot -1, which is the last one: a base request beside an adapter's was
    answered with the adapter in that slot. Here every layer gets one slot more than can ever be filled; it stays zero.
    """

    def load_lora_model(self, model: Any, vllm_config: Any, device: torch.device) -> Any:
        """As vLLM does, with one slot more."""
        config = vllm_config.lora_config
        slots, kept = config.max_loras, config.max_cpu_loras
        config.max_loras, config.max_cpu_loras = slots + 1, max(kept, slots + 1)
        try:
            return super().load_lora_model(model, vllm_config, device)  # type: ignore[misc]
        finally:
            # What is read from now on, by the adapters' manager and the scheduler, is what may be filled.
            config.max_loras, config.max_cpu_loras = slots, kept
