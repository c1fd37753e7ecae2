"""The made-up batches of the kernel stage have one right answer: exact arithmetic gives it too, within the stage's tolerance."""

import sys
from pathlib import Path

import pytest
import torch
from trait_service.engine import arithmetic, kernel_torch

STAGES = Path(__file__).with_name("stages")
FAILED_ON_A_GPU = (
    (640, 257, "float16", True),
    (2048, 64, "float16", True),
    (4096, 257, "bfloat16", True),
    (4096, 64, "float16", False),
    (5120, 64, "float16", False),
)
"""Cases that an H200 refused while rotations shared directions with other terms (experiments/gpu)."""


@pytest.fixture(scope="module")
def cases():
    sys.path.append(str(STAGES))
    try:
        import kernel_cases
    finally:
        sys.path.remove(str(STAGES))
    return kernel_cases


@pytest.mark.parametrize(("d_model", "n_tokens", "dtype", "split"), FAILED_ON_A_GPU)
def test_doubles_give_the_same_streams(cases, monkeypatch, d_model, n_tokens, dtype, split):
    made, in_doubles = [], []

    def delta(*numbers):
        if not in_doubles:
            return arithmetic.delta(*numbers)
        *real, mode = numbers
        return arithmetic.delta(*(number.double() for number in real), mode).float()

    class Exact:
        """The reference, its deltas computed in doubles."""

        def __init__(self, side):
            self._side = side

        def __getattr__(self, name):
            return getattr(self._side, name)

        def intervene(self, *given):
            in_doubles.append(True)
            try:
                self._side.intervene(*given)
            finally:
                in_doubles.clear()

    def side(case, directions, batch, _device):
        made.append(found := of_torch(case, directions, batch, cases.CPU))
        return found if len(made) == 1 else (Exact(found[0]), found[1])

    of_torch = cases._side
    monkeypatch.setattr(cases, "_side", side)
    monkeypatch.setattr(kernel_torch, "delta", delta)
    errors = cases.compare(cases.Case(d_model, n_tokens, dtype, split, True), "cpu")
    assert len(made) == 2
    assert torch.tensor([errors[name] for name in ("streams", "sums", "norms", "projections")]).max() > 0
    assert errors["streams"] <= cases.TOLERANCE[dtype] / 2
    assert errors["different"] <= cases.MOST_DIFFERENT / 2
