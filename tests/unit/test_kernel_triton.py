"""The Triton kernels equal the torch path, in Triton's interpreter on the CPU; no GPU has run them.

Triton is not among the CPU's pinned packages: `make test-triton` puts it aside and runs these.
"""

import os

import pytest
import torch

pytest.importorskip("triton", reason="make test-triton runs these")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("make test-triton runs these", allow_module_level=True)

from trait_client.positions import UNBOUNDED
from trait_service.engine import kernel_torch, kernel_triton
from trait_service.engine.arithmetic import coefficients
from trait_service.engine.buffers import CaptureRows, RequestTable, TableEntry

D_MODEL, N_TOKENS, N_ROWS = 24, 11, 3
CPU = torch.device("cpu")


@pytest.fixture
def step():
    """Three requests (the second plain), padded tokens at the end, a bank of four directions."""
    generator = torch.Generator().manual_seed(1)
    bank = torch.nn.functional.normalize(torch.randn(4, D_MODEL, generator=generator), dim=-1)
    rows = torch.tensor([0, 0, 0, -1, -1, 1, 1, 2, 2, -1, -1], dtype=torch.int32)
    positions = torch.tensor([0, 1, 2, 0, 1, 7, 8, 3, 4, 0, 0], dtype=torch.int32)
    residual, hidden = (torch.randn(N_TOKENS, D_MODEL, generator=generator) for _ in range(2))
    return bank, rows, positions, residual, hidden


def entries(operation, value, bank_row, start=0, stop=UNBOUNDED, preserve_norm=False):
    return TableEntry(0, bank_row, coefficients(operation, value), start, stop, preserve_norm)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steering_equals_the_torch_path(step, split, dtype):
    bank, rows, positions, residual, hidden = step
    residual, hidden = residual.to(dtype), hidden.to(dtype) if split else None
    table = RequestTable(1, N_ROWS, 4, CPU)
    table.write(0, [entries("add", 2.0, 0), entries("ablate", 0.0, 1, 1, 3), entries("set", 0.5, 2)])
    table.write(1, [entries("floor", 0.7, 3), entries("ceiling", -0.2, 0, 8, 9)])
    table.write(2, [entries("scale", -1.5, 1), entries("add", 3.0, 2, preserve_norm=True)])
    table.flush()
    places = torch.nonzero(rows >= 0).squeeze(-1).numpy()
    tokens = kernel_torch.StepTokens.of(places, rows.numpy(), positions.numpy())
    expected, got = residual.clone(), residual.clone()
    kernel_torch.steer(expected, hidden, bank, table.on(0), tokens)
    flags = torch.tensor([3, 0], dtype=torch.int32)
    kernel_triton.steer(got, hidden, bank, table.on(0), rows, positions, flags)
    assert (expected != residual).any()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
    idle = residual.clone()
    kernel_triton.steer(idle, hidden, bank, table.on(0), rows, positions, torch.zeros(2, dtype=torch.int32))
    assert torch.equal(idle, residual)


@pytest.mark.parametrize("split", [True, False])
def test_capture_equals_the_torch_path(step, split):
    _, _, _, residual, hidden = step
    hidden = hidden if split else None
    slots = torch.full((N_TOKENS, 2), -1, dtype=torch.int32)
    slots[0:3, 0], slots[2, 1], slots[5:7, 0] = 1, 0, 2
    pairs = [(token, int(slot)) for token in range(N_TOKENS) for slot in slots[token] if slot >= 0]
    expected, got = CaptureRows(1, 3, D_MODEL, CPU), CaptureRows(1, 3, D_MODEL, CPU)
    tokens, rows = (torch.tensor(column) for column in zip(*pairs, strict=True))
    kernel_torch.capture(residual, hidden, tokens, rows, expected.sums[0], expected.norms[0])
    flags = torch.tensor([0, 1], dtype=torch.int32)
    kernel_triton.capture(residual, hidden, slots, got.sums[0], got.norms[0], flags)
    torch.testing.assert_close(got.sums, expected.sums)
    torch.testing.assert_close(got.norms, expected.norms)
