"""The branches of a layer: which module's output is added to the stream, and which models are refused."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hand_made_steps import view_of
from torch import nn
from trait_core.schema import HookPoint
from trait_service.engine import branches, layers, operation
from trait_service.engine.engine_shape import EngineShape
from trait_service.engine.errors import UnsupportedModelError
from trait_service.engine.settings import EngineSettings
from trait_service.engine.spec import RequestSpec, TermSpec
from trait_service.engine.state import SteeringState
from trait_service.reading.branch_check import first_wrong

N_LAYERS, D_MODEL, N_TOKENS = 3, 4, 5
EAST = np.eye(D_MODEL, dtype=np.float32)[0]
DIGEST = hashlib.sha256(EAST.tobytes()).hexdigest()


def alone(stream):
    return stream + 0.0


class Adds(nn.Module):
    """A branch: `returns` of its input."""

    def __init__(self, returns=alone, **attributes) -> None:
        super().__init__()
        self.returns = returns
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, stream: torch.Tensor):
        return self.returns(stream)


class SomeMLP(Adds):
    """A mixer that is an MLP."""


class Block(nn.Module):
    """A layer that adds what its branches return, a norm behind each where it has one."""

    def __init__(self, attention=alone, mlp=alone) -> None:
        super().__init__()
        self.self_attn, self.mlp = Adds(attention), Adds(mlp)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        stream = stream + first_of(self.self_attn(stream))
        return stream + first_of(self.mlp(stream))


def first_of(output):
    return output[0] if isinstance(output, tuple) else output


def layer_with(**modules) -> nn.Module:
    layer = nn.Module()
    for name, module in modules.items():
        layer.add_module(name, module)
    return layer


def steered(model: nn.Module, at: HookPoint, **options) -> SteeringState:
    """Attach to a model at one hook point; its one request of five tokens is steered there at layer 1."""
    shape = EngineShape(
        N_LAYERS,
        D_MODEL,
        max_requests=2,
        max_tokens=32,
        device=torch.device("cpu"),
        hook_points=("attn_out", "mlp_out"),
    )
    rule = f"{layers.class_name(Block)}=single"
    state = SteeringState(EngineSettings(bank_rows=1, layer_rule=[rule]), shape)
    state.bank.put(DIGEST, EAST.tobytes())
    found = dict(enumerate(model.layers))
    layers.attach(found, state)
    branches.attach(found, state, 1)
    spec = RequestSpec(key="k", terms=[TermSpec(layer=1, at=at, direction=DIGEST, **options)])
    state.prepare(view_of({"steered": (spec, N_TOKENS, 0, N_TOKENS)}))
    return state


def blocks(**branches_of) -> nn.Module:
    model = nn.Sequential(*(Block(**branches_of) for _ in range(N_LAYERS)))
    model.layers = list(model)
    return model


def expected(stream: torch.Tensor, at: HookPoint, value: float) -> torch.Tensor:
    """Three blocks that double the stream twice; block 1 adds `value` along the first axis in one branch."""
    for layer in range(N_LAYERS):
        for branch in ("attn_out", "mlp_out"):
            stream = stream * 2
            if (layer, branch) == (1, at):
                stream = stream + value * torch.from_numpy(EAST)
    return stream


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("at", ["attn_out", "mlp_out"])
@pytest.mark.parametrize("shape", [(N_TOKENS, D_MODEL), (1, N_TOKENS, D_MODEL)], ids=str)
def test_a_branch_is_steered_where_it_is_added(at, shape, compiled):
    operation.register()
    torch.compiler.reset()
    model = blocks()
    state = steered(model, at, value=2.0)
    run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
    stream = torch.arange(float(N_TOKENS * D_MODEL)).reshape(shape)
    for _ in range(2):  # the first pass is checked, the second is not
        with torch.no_grad(), operation.bound(state):
            assert torch.equal(run(stream.clone()), expected(stream, at, 2.0))


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        (lambda stream: (stream, stream), "returns a tuple of another form"),
        (lambda stream: [stream], "returns a list of another form"),
        (lambda stream: stream[:, :2], r"Adds \(mlp_out of layer 0\) returns shape \(5, 2\)"),
    ],
    ids=["bias", "list", "width"],
)
def test_a_branch_that_is_not_one_tensor_with_a_row_for_each_token_is_refused(returns, said):
    model = blocks(mlp=returns)
    state = steered(model, "mlp_out")
    with pytest.raises(UnsupportedModelError, match=said), operation.bound(state):
        model.layers[0].mlp(torch.zeros(N_TOKENS, D_MODEL))


def test_a_branch_that_is_left_out_is_refused():
    model = blocks()
    state = steered(model, "attn_out")
    model.layers[2].forward = alone
    with (
        pytest.raises(
            UnsupportedModelError, match=r"attn_out of layers 2 and mlp_out of layers 2 \(Adds\) are not called"
        ),
        operation.bound(state),
    ):
        model(torch.zeros(N_TOKENS, D_MODEL))


@pytest.mark.parametrize(
    ("modules", "attention", "mlp"),
    [
        ("input_layernorm self_attn post_attention_layernorm mlp", "self_attn", "mlp"),
        (
            "self_attn post_attention_layernorm pre_feedforward_layernorm mlp post_feedforward_layernorm",
            "post_attention_layernorm",
            "post_feedforward_layernorm",
        ),
        (
            "self_attn post_attention_layernorm pre_mlp_layernorm mlp post_mlp_layernorm",
            "post_attention_layernorm",
            "post_mlp_layernorm",
        ),
        (
            "self_attn post_self_attn_layernorm post_attention_layernorm mlp post_mlp_layernorm",
            "post_self_attn_layernorm",
            "post_mlp_layernorm",
        ),
        ("self_attn pre_feedforward_layernorm mlp", "self_attn", "mlp"),
        ("ln_1 attn ln_2 mlp", "attn", "mlp"),
        ("linear_attn block_sparse_moe", "linear_attn", "block_sparse_moe"),
    ],
)
def test_the_module_is_the_branchs_own_or_the_norm_behind_it(modules, attention, mlp):
    layer = layer_with(**{name: Adds() for name in modules.split()})
    assert branches.branch(layer, "attn_out") is layer.get_submodule(attention)
    assert branches.branch(layer, "mlp_out") is layer.get_submodule(mlp)


def test_a_mixer_is_what_its_class_says():
    assert branches.branch(layer_with(mixer=SomeMLP()), "mlp_out")
    assert branches.branch(layer_with(mixer=Adds()), "attn_out")
    for mixer, at in ((SomeMLP(), "attn_out"), (Adds(), "mlp_out")):
        with pytest.raises(
            UnsupportedModelError, match=rf"has no {at}: it has no module of that role \(it has mixer\)"
        ):
            branches.branch(layer_with(mixer=mixer), at)


def test_a_layer_with_several_modules_of_a_role_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"has no attn_out: it has several modules .*\(self_attn, mamba\)"):
        branches.branch(layer_with(self_attn=Adds(), mamba=Adds()), "attn_out")


@pytest.mark.parametrize("at", ["attn_out", "mlp_out"])
def test_a_layer_that_adds_something_else_than_its_modules_outputs_is_refused(at):
    layer = Block()
    layer.residual_multiplier = 0.22
    with pytest.raises(UnsupportedModelError, match=r"multiplies the outputs of its modules by 0\.22"):
        branches.branch(layer, at)
    layer.residual_multiplier = 1.0
    assert branches.branch(layer, at)
    layer.do_layer_norm_before = False
    with pytest.raises(UnsupportedModelError, match="norms the whole stream behind each branch"):
        branches.branch(layer, at)


def test_with_tensor_parallelism_a_branch_that_is_not_summed_over_the_ranks_is_refused():
    layer = layer_with(
        self_attn=layer_with(o_proj=Adds(reduce_results=False)), mlp=layer_with(down_proj=Adds(reduce_results=True))
    )
    assert branches.branch(layer, "attn_out", 1)
    assert branches.branch(layer, "mlp_out", 2)
    with pytest.raises(UnsupportedModelError, match=r"self_attn\.o_proj leaves the sum over the ranks to the layer"):
        branches.branch(layer, "attn_out", 2)


def test_shared_experts_are_summed_over_the_ranks_with_the_others():
    def experts(**config) -> nn.Module:
        shared = layer_with(down_proj=Adds(reduce_results=False))
        return layer_with(mlp=layer_with(experts=Adds(moe_config=SimpleNamespace(**config)), shared_experts=shared))

    assert branches.branch(experts(skip_final_all_reduce=False), "mlp_out", 2)
    with pytest.raises(UnsupportedModelError, match=r"mlp \(its experts\) leaves the sum"):
        branches.branch(experts(skip_final_all_reduce=True), "mlp_out", 2)


def test_branches_that_do_not_add_up_to_the_stream_are_found_by_their_means():
    rng = np.random.default_rng(0)
    added = rng.normal(size=(5, 64)).astype(np.float32)
    stream = 10 + added.cumsum(0)
    assert first_wrong(stream, added) is None
    assert first_wrong(stream + rng.normal(size=stream.shape) * 1e-2, added) is None, "rounded"
    assert first_wrong(10 + (0.22 * added).cumsum(0), added) == 1, "a multiplier of the branches"
    added[3, 0] = np.nan
    assert first_wrong(stream, added) == 3


def test_without_further_hook_points_nothing_is_hooked_inside_a_layer():
    model = blocks()
    state = SteeringState(EngineSettings(bank_rows=1), EngineShape(N_LAYERS, D_MODEL, 2, 32, torch.device("cpu")))
    branches.attach(dict(enumerate(model.layers)), state, 1)
    assert not any(module._forward_hooks for module in model.modules())
    assert not state.unchecked
    assert state.pools.sums.shape[1] == N_LAYERS
