"""Attention heads: what each puts out before the output projection is captured, eager and compiled, and the model is left as it was."""

import numpy as np
import pytest
import torch
from hand_made_steps import view_of
from pydantic import ValidationError
from safetensors.torch import load
from torch import nn
from trait_core.errors import InvalidRequestError
from trait_core.schema import ActivationInput, ActivationsRequest, head_of
from trait_service.engine import heads, layers, operation
from trait_service.engine.engine_shape import EngineShape
from trait_service.engine.errors import UnsupportedModelError
from trait_service.engine.head_shape import HeadShape
from trait_service.engine.settings import EngineSettings
from trait_service.engine.spec import CaptureSpec, RequestSpec
from trait_service.engine.state import SteeringState
from trait_service.reading.places import Places

N_LAYERS, D_MODEL, N_TOKENS = 2, 12, 5
SHAPES = [HeadShape(3, 4, D_MODEL), HeadShape(2, 4, D_MODEL), HeadShape(5, 4, D_MODEL), HeadShape(4, 8, D_MODEL)]
"""Heads that fill a row of the stream's width, fewer, more, and so wide that each has a row of its own."""


class Attention(nn.Module):
    """Makes all heads of its input, and mixes them."""

    def __init__(self, width: int, projection: str = "o_proj") -> None:
        super().__init__()
        self.qkv = nn.Linear(D_MODEL, width, bias=False)
        self.add_module(projection, nn.Linear(width, D_MODEL, bias=False))
        self.projection = projection

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        return self.get_submodule(self.projection)(self.qkv(stream).tanh())


class Block(nn.Module):
    """A layer that adds what its attention puts out."""

    def __init__(self, width: int, projection: str = "o_proj") -> None:
        super().__init__()
        self.self_attn = Attention(width, projection)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        return stream + self.self_attn(stream)


def model_of(width: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block(width) for _ in range(N_LAYERS)))


def capturing(model: nn.Sequential, shape: HeadShape, capture: CaptureSpec) -> SteeringState:
    """Attach to the heads of a model, and let a request of all tokens capture there."""
    engine = EngineShape(N_LAYERS, D_MODEL, max_requests=2, max_tokens=32, device=torch.device("cpu"), heads=shape)
    rule = f"{layers.class_name(Block)}=single"
    state = SteeringState(EngineSettings(bank_rows=1, capture_rows=2, layer_rule=[rule]), engine)
    found = dict(enumerate(model))
    assert heads.shape_of(found, shape.n_heads, D_MODEL, 1) == shape
    layers.attach(found, state)
    heads.attach(found, state)
    spec = RequestSpec(key="k", capture=capture)
    state.prepare(view_of({"captured": (spec, N_TOKENS, 0, N_TOKENS)}))
    return state


@torch.no_grad()
def outputs(model: nn.Sequential, stream: torch.Tensor) -> np.ndarray:
    """`(n_tokens, n_layers, width)`: what the output projections get, by a plain computation."""
    made = []
    for block in model:
        made.append(block.self_attn.qkv(stream).tanh())
        stream = stream + block.self_attn.o_proj(made[-1])
    return torch.stack(made, 1).numpy()


@torch.no_grad()
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("batched", [False, True], ids=["plain", "batch of one"])
def test_each_head_is_captured_and_the_output_stays_as_it_was(shape, compiled, batched):
    operation.register()
    torch.compiler.reset()
    model = model_of(shape.n_heads * shape.head_dim)
    stream = torch.randn(N_TOKENS, D_MODEL, generator=torch.Generator().manual_seed(1))
    plain, expected = model(stream), outputs(model, stream)
    state = capturing(model, shape, CaptureSpec(positions=["prompt[1:]"], at="head_out"))
    run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
    with operation.bound(state):
        got = run(stream[None] if batched else stream)
    assert torch.equal(got.reshape(plain.shape), plain)
    state.finish()
    mean = load(state.collect({"k": []})["captures"])["k/mean"].numpy()
    assert mean.shape == (1, N_LAYERS * shape.n_rows, D_MODEL)
    np.testing.assert_allclose(shape.take(mean, None)[0], expected[1:].mean(0), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_head_is_its_slice_at_every_position(shape):
    model = model_of(shape.n_heads * shape.head_dim)
    stream = torch.randn(N_TOKENS, D_MODEL)
    expected = outputs(model, stream)
    for head in range(shape.n_heads):
        capture = CaptureSpec(positions=["all[:]"], at="head_out", head=head, layers=[1], each=True)
        state = capturing(model, shape, capture)
        with operation.bound(state):
            model(stream)
        state.finish()
        each = load(state.collect({"k": []})["captures"])["k/each"].numpy()
        found = shape.take(each, head)
        at = slice(head * shape.head_dim, (head + 1) * shape.head_dim)
        assert found.shape == (N_TOKENS, 1, shape.head_dim)
        np.testing.assert_allclose(found[:, 0], expected[:, 1, at], atol=1e-6)
        for block in model:
            block.self_attn.o_proj._forward_pre_hooks.clear()
            block._forward_hooks.clear()


def test_models_without_such_heads_are_refused():
    def refused(found: list[nn.Module], n_heads: int = 3, ranks: int = 1) -> str:
        with pytest.raises(UnsupportedModelError) as caught:
            heads.shape_of(dict(enumerate(found)), n_heads, D_MODEL, ranks)
        return str(caught.value)

    assert "does not have one module o_proj" in refused([Block(12, "dense")])
    assert "do not all have 3 heads" in refused([Block(12), Block(24)])
    assert "do not all have 5 heads" in refused([Block(12)], n_heads=5)
    assert "at most 12 wide" in refused([Block(48)])
    assert "tensor parallelism" in refused([Block(12)], ranks=2)


def test_a_request_for_heads_is_refused_by_an_engine_without_them():
    capture = CaptureSpec(positions=["all[:]"], at="head_out")
    state = SteeringState(
        EngineSettings(), EngineShape(N_LAYERS, D_MODEL, max_requests=2, max_tokens=32, device=torch.device("cpu"))
    )
    spec = RequestSpec(key="k", capture=capture)
    state.prepare(view_of({"a": (spec, 3, 0, 3)}))
    assert "start the service with --hook-points head_out" in state.collect({"k": []})["reports"]["k"]["error"]


def test_places_are_checked_before_anything_is_read():
    places = Places(D_MODEL, ["resid_post"], SHAPES[0])
    places.check("head_out")
    places.check("head_out[2]")
    assert [places.width(at) for at in ("resid_post", "head_out", "head_out[2]")] == [D_MODEL, 12, 4]
    with pytest.raises(InvalidRequestError, match=r"head_out\[3\] is out of range: the model has heads 0..2"):
        places.check("head_out[3]")
    with pytest.raises(InvalidRequestError, match="no hook point mlp_out"):
        places.check("mlp_out")
    with pytest.raises(InvalidRequestError, match="--hook-points head_out"):
        Places(D_MODEL, ["resid_post"], None).check("head_out[0]")


@pytest.mark.parametrize("at", ["head_out[]", "head_out[-1]", "head_out3", "head", "head_out[1000000]"])
def test_a_place_that_is_not_written_so_is_refused(at):
    with pytest.raises(ValidationError):
        ActivationsRequest(inputs=[ActivationInput(text="a")], at=at)


def test_the_number_of_a_head_is_read_from_its_place():
    assert [head_of(at) for at in ("head_out[12]", "head_out", "attn_out")] == [12, None, None]


def test_the_option_takes_heads_beside_hook_points():
    assert EngineSettings(hook_points=["head_out,mlp_out"]).hook_points == ["mlp_out", "head_out"]
