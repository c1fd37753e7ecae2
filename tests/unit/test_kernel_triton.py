"""The Triton kernels equal the torch path, in Triton's interpreter on the CPU; no GPU has run them.

Triton is not among the CPU's pinned packages: `make test-triton` puts it aside and runs these.
"""

import os

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="make test-triton runs these")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("make test-triton runs these", allow_module_level=True)

from trait_core.positions import UNBOUNDED
from trait_service.engine.arithmetic import coefficients
from trait_service.engine.batch import LiveBatch, Step
from trait_service.engine.buffers import VectorBank
from trait_service.engine.capture_rows import CaptureRows
from trait_service.engine.cpu_step import CpuStep
from trait_service.engine.cuda_step import CudaStep
from trait_service.engine.requests import MONITORED, TERM, LiveRequest
from trait_service.engine.spec import RequestSpec, TermSpec

D_MODEL, N_LAYERS, LAYER = 24, 3, 1
CPU = torch.device("cpu")
SPEC = RequestSpec(key="k", terms=[TermSpec(layer=0, direction="0" * 64)])


def term(k, operation, value, bank_row, start=0, stop=UNBOUNDED, preserve_norm=False):
    asked = TermSpec(layer=LAYER, direction="0" * 64, operation=operation, value=value, preserve_norm=preserve_norm)
    mode, a, b = coefficients(asked)
    return (LAYER, k, bank_row, mode, a, b, start, stop)


@pytest.fixture
def batch():
    """Three requests around a plain one: terms, pools and monitored directions of every kind."""
    steered = LiveRequest(
        SPEC,
        3,
        terms=np.array([term(0, "add", 2.0, 0), term(1, "ablate", 0.0, 1, 1, 3), term(2, "set", 0.5, 2)], dtype=TERM),
    )
    limited = LiveRequest(
        SPEC,
        3,
        terms=np.array([term(0, "floor", 0.7, 3), term(1, "ceiling", -0.2, 0, 8, 9)], dtype=TERM),
        pools=[(0, UNBOUNDED), (8, 9)],
        captured_layers=[LAYER],
        capture_rows=[0, 2],
    )
    rescaled = LiveRequest(
        SPEC,
        3,
        terms=np.array([term(0, "scale", -1.5, 1), term(1, "add", 3.0, 2, preserve_norm=True)], dtype=TERM),
        monitored=np.array([(0, 1, 0, 0, False), (LAYER, 3, 1, 0, True), (LAYER, 0, 2, 0, False)], dtype=MONITORED),
    )
    return LiveBatch(4, [(0, 2, steered), (2, 0, limited), (3, 1, rescaled)])


@pytest.fixture
def step():
    scheduled = np.array([3, 2, 2, 2])
    return Step(np.array([0, 0, 7, 3]), scheduled, np.cumsum(scheduled) - scheduled, 9)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_equal_the_torch_path(batch, step, split, dtype):
    generator = torch.Generator().manual_seed(1)
    bank = VectorBank(4, D_MODEL, CPU)
    bank.rows.copy_(torch.nn.functional.normalize(torch.randn(4, D_MODEL, generator=generator), dim=-1))
    residual, hidden = (torch.randn(11, D_MODEL, generator=generator).to(dtype) for _ in range(2))
    hidden = hidden if split else None
    results = []
    for cuda in (False, True):
        pools = CaptureRows(N_LAYERS, 3, D_MODEL, CPU)
        shape = {"n_layers": N_LAYERS, "max_tokens": 16}
        side = (
            CudaStep(bank, pools, **shape, max_requests=4, terms_per_layer=4, device=CPU)
            if cuda
            else CpuStep(bank, pools, **shape)
        )
        side.regroup(batch)
        side.prepare(step, batch.computed_to)
        streams = []
        for layer in range(N_LAYERS):
            stream = residual.clone()
            side.intervene(stream, hidden, layer)
            streams.append(stream)
        values = side.copy_values(step.n_tokens).read()
        results.append((streams, pools, values))
    (expected, expected_pools, expected_values), (got, got_pools, got_values) = results
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert torch.equal(got[0], residual)
    assert torch.equal(got[2], residual)
    assert (expected[LAYER][[0, 1, 2, 5, 6, 7, 8]] != residual[[0, 1, 2, 5, 6, 7, 8]]).any(dim=1).all()
    assert torch.equal(got[LAYER][[3, 4, 9, 10]], residual[[3, 4, 9, 10]])
    torch.testing.assert_close(got[LAYER], expected[LAYER], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(got_pools.sums, expected_pools.sums, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(got_pools.norms, expected_pools.norms, atol=tolerance, rtol=tolerance)
    assert got_pools.counts.tolist() == expected_pools.counts.tolist() == [2, 0, 1]
    assert (expected_values[7:9, :3] != 0).all()
    np.testing.assert_allclose(got_values[7:9, :3], expected_values[7:9, :3], atol=tolerance, rtol=tolerance)


def test_a_step_that_rests_changes_nothing(batch, step):
    bank, pools = VectorBank(4, D_MODEL, CPU), CaptureRows(N_LAYERS, 3, D_MODEL, CPU)
    bank.rows.fill_(1.0)
    side = CudaStep(bank, pools, n_layers=N_LAYERS, max_requests=4, max_tokens=16, terms_per_layer=4, device=CPU)
    side.regroup(batch)
    side.prepare(step, batch.computed_to)
    side.rest()
    residual = torch.randn(11, D_MODEL)
    before = residual.clone()
    side.intervene(residual, None, LAYER)
    assert torch.equal(residual, before)
    assert not pools.sums.any()
