# ruff: noqa: SLF001 - a subclass of vLLM's runner, which reaches into what the runner is made of
"""LoRA adapters on the CPU: fixes for errors and slow paths of vLLM 0.32, in subclasses."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

Rows = torch.Tensor | slice
Groups = Sequence[tuple[int, Rows]]
"""Adapter slots with the rows of a batch that use them. Rows of the base model are in none."""


class GroupedLoraWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """An adapter's weights meet all of their rows in one product; rows of the base model meet none.

    vLLM's CPU kernels copy a layer's adapter weights once for every row, and look up "no adapter" as slot -1, which is the last
    one: a base request in the same batch as an adapter's was answered with the adapter in that slot.
    """

    of_positions: Groups = ()
    of_samples: Groups = ()

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Note which rows of the coming step each slot has."""
        super().update_metadata(*args, **kwargs)
        self.of_positions = rows_by_slot(self.token_lora_indices)
        self.of_samples = rows_by_slot(self.sampler_indices)

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, add_inputs: bool = True, **_: Any
    ) -> None:
        """`y (n, d_out) += x (n, rank) @ B.T`, in place, in the dtype of `y`."""
        _expand(y, x, lora_b_stacked, self.of_positions, add_inputs=add_inputs)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        """`y (n, vocab) += scale * x (n, d) @ A.T @ B.T`, in place; `n` rows are those that are sampled."""
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        inner = torch.zeros((len(x), lora_a_stacked.shape[-2]), dtype=torch.float32, device=x.device)
        _shrink(inner, x, lora_a_stacked, self.of_samples, scale)
        _expand(y, inner, lora_b_stacked, self.of_samples)

    def _apply_shrink(self, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, scale: float) -> None:
        _shrink(y, x, w_t_all, self.of_positions, scale)

    def _apply_expand(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        w_t_all: torch.Tensor,
        y_offset: int,
        y_slice_size: int,
        add_inputs: bool = True,
    ) -> None:
        _expand(y[:, y_offset : y_offset + y_slice_size], x, w_t_all, self.of_positions, add_inputs=add_inputs)


def rows_by_slot(slots: torch.Tensor) -> Groups:
    """Which rows each slot has: `slots (n,)` int64, -1 for the base model. All rows are a slice, which copies nothing."""
    used = [slot for slot in slots.unique().tolist() if slot >= 0]
    if len(used) == 1 and bool((slots == used[0]).all()):
        return [(used[0], slice(None))]
    return [(slot, (slots == slot).nonzero().squeeze(1)) for slot in used]


def _shrink(y: torch.Tensor, x: torch.Tensor, stacked: torch.Tensor, groups: Groups, scale: float) -> None:
    for slot, rows in groups:
        y[rows] = x[rows].to(y.dtype) @ stacked[slot, 0].to(y.dtype).T * scale


def _expand(
    y: torch.Tensor, x: torch.Tensor, stacked: torch.Tensor, groups: Groups, *, add_inputs: bool = True
) -> None:
    for slot, rows in groups:
        # The layer and its adapter may be padded differently.
        width = min(y.shape[1], stacked.shape[-2])
        added = x[rows].to(y.dtype) @ stacked[slot, 0, :width].to(y.dtype).T
        y[rows, :width] = y[rows, :width] + added if add_inputs else added


class GroupedLoraMixin:
    """Adapters by groups of rows, and each prompt's log-probabilities read with its own request's adapter.

    For the positions of a prompt vLLM takes the adapters of the step's sampled tokens, one for each request: if there are
    fewer or more positions than requests the engine ends, else they get others' adapters. Here prompts are read
    one at a time, with the request's slot at every position.
    """

    input_batch: Any
    lora_config: Any
    lora_manager: Any
    num_prompt_logprobs: dict[str, int]

    def load_lora_model(self, *args: Any, **kwargs: Any) -> Any:
        """As vLLM does; the class of the wrappers that it has made is swapped."""
        model = super().load_lora_model(*args, **kwargs)  # type: ignore[misc]
        for wrapper in self._wrappers():
            wrapper.__class__ = GroupedLoraWrapper
        return model

    def _wrappers(self) -> list[GroupedLoraWrapper]:
        return list(self.lora_manager._adapter_manager.punica_wrapper_mapping.values())

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
        kept = [(wrapper, wrapper.of_samples) for wrapper in self._wrappers()]
        for wrapper, _ in kept:
            slot = -1 if row is None else int(wrapper.sampler_indices[row])
            wrapper.of_samples = [(slot, slice(None))] if slot >= 0 else []
        try:
            yield
        finally:
            for wrapper, groups in kept:
                wrapper.of_samples = groups
