"""Rows of a batch meet their own adapter's weights and no other's, whatever they stand beside."""

import numpy as np
import pytest
import torch
from trait_service.engine.vllm_repairs.cpu_lora import GroupedLoraWrapper, rows_by_slot
from vllm.lora.layers import LoRAMapping

SLOT_IDS = [7, None, 5]
"""What vLLM keeps: the adapters' numbers by slot. The last slot is filled, the middle one is not."""
N_SLOTS, RANK, D_IN, D_OUT = len(SLOT_IDS), 4, 6, 10
SCALE = 0.5


@pytest.fixture
def weights() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(N_SLOTS, 1, RANK, D_IN, generator=generator)
    return a, torch.randn(N_SLOTS, 1, D_OUT, RANK, generator=generator)


def wrapper_for(adapters: list[int]) -> GroupedLoraWrapper:
    """A wrapper told of one step: an adapter's number, or 0, for each row; each row is sampled too."""
    wrapper = GroupedLoraWrapper(64, 64, device="cpu")
    wrapper.update_metadata(LoRAMapping(tuple(adapters), tuple(adapters), is_prefill=True), SLOT_IDS, N_SLOTS, 100)
    return wrapper


def expected(y: torch.Tensor, x: torch.Tensor, weights: tuple[torch.Tensor, torch.Tensor], adapters: list[int]):
    """Row by row: `y + scale * B A x` of the row's slot."""
    rows = []
    for row, (values, adapter) in enumerate(zip(x, adapters, strict=True)):
        added = torch.zeros(D_OUT)
        if adapter:
            slot = SLOT_IDS.index(adapter)
            added = SCALE * weights[1][slot, 0] @ (weights[0][slot, 0] @ values)
        rows.append(y[row] + added)
    return torch.stack(rows)


@pytest.mark.parametrize("adapters", [[7] * 5, [0] * 5, [0, 5, 7, 5, 0], [5, 0, 0, 0, 0]])
@pytest.mark.parametrize("rows_of", ["linear", "logits"])
def test_each_row_gets_its_own_adapter_and_a_base_row_none(weights, adapters, rows_of):
    a, b = weights
    y, x = torch.randn(5, D_OUT), torch.randn(5, D_IN)
    result = y.clone()
    wrapper = wrapper_for(adapters)
    if rows_of == "linear":
        wrapper.add_lora_linear(result, x, (a,), (b,), SCALE, (D_OUT,))
    else:
        wrapper.add_lora_logits(result, x, a, b, SCALE)
    torch.testing.assert_close(result, expected(y, x, weights, adapters), atol=1e-5, rtol=1e-5)
    base = [row for row, adapter in enumerate(adapters) if not adapter]
    assert torch.equal(result[base], y[base]), "a base row is not touched at all"


def test_slices_of_a_fused_projection_get_their_own_weights(weights):
    a, b = weights
    y, x = torch.randn(2, 2 * D_OUT), torch.randn(2, D_IN)
    result = y.clone()
    other = (a.flip(0), b.flip(0))
    wrapper_for([5, 0]).add_lora_linear(result, x, (a, other[0]), (b, other[1]), SCALE, (D_OUT, D_OUT))
    for half, of_half in enumerate((weights, other)):
        columns = slice(half * D_OUT, (half + 1) * D_OUT)
        torch.testing.assert_close(
            result[:, columns], expected(y[:, columns], x, of_half, [5, 0]), atol=1e-5, rtol=1e-5
        )


def test_logits_wider_than_the_adapter_keep_their_padding(weights):
    a, b = weights
    y, x = torch.zeros(1, D_OUT + 3), torch.ones(1, D_IN)
    wrapper_for([7]).add_lora_logits(y, x, a, b, SCALE)
    assert torch.all(y[:, :D_OUT] != 0)
    assert torch.all(y[:, D_OUT:] == 0)


def test_rows_are_grouped_by_slot_and_all_rows_are_a_slice():
    groups = rows_by_slot(torch.tensor([1, -1, 0, 1]))
    assert [(slot, rows.tolist()) for slot, rows in groups] == [(0, [2]), (1, [0, 3])]
    assert rows_by_slot(torch.tensor([2, 2])) == [(2, slice(None))]
    assert rows_by_slot(torch.tensor([-1, -1])) == []
    assert rows_by_slot(torch.tensor(np.zeros(0, dtype=np.int64))) == []
