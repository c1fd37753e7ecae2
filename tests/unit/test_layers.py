"""The operation at a layer's output: where the stream is in it, and which models are refused in their first forward pass."""

import hashlib
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn
from trait_service.engine import layers, operation
from trait_service.engine.errors import UnsupportedModelError
from trait_service.engine.runner_view import StepView
from trait_service.engine.settings import EngineSettings
from trait_service.engine.spec import RequestSpec, TermSpec
from trait_service.engine.state import EngineShape, SteeringState
from vllm.utils.torch_utils import LayerName

N_LAYERS, D_MODEL, N_TOKENS = 3, 4, 5
EAST = np.eye(D_MODEL, dtype=np.float32)[0]
DIGEST = hashlib.sha256(EAST.tobytes()).hexdigest()
SHAPE = EngineShape(N_LAYERS, D_MODEL, max_requests=2, max_tokens=32, device=torch.device("cpu"))


class Layer(nn.Module):
    """A block that passes its input on, as `returns` says."""

    def __init__(self, returns) -> None:
        super().__init__()
        self.returns = returns

    def forward(self, stream: torch.Tensor):
        return self.returns(stream)


class Model(nn.Module):
    """Three blocks in the given order, each fed with the sum of what the one before returned."""

    def __init__(self, returns, order=range(N_LAYERS)) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(returns) for _ in range(N_LAYERS))
        self.order = list(order)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        for index in self.order:
            output = self.layers[index](stream)
            stream = sum(output) if isinstance(output, tuple) else output
        return stream * 1.0


def alone(stream):
    return stream + 0.0


@pytest.fixture(params=["eager", "compiled"])
def run(request):
    """`run(model, stream, state)`: one forward pass of the steered model."""
    operation.register()
    torch.compiler.reset()
    compiled = {}

    def forward(model, stream, state):
        if request.param == "compiled":
            model = compiled.setdefault(model, torch.compile(model, fullgraph=True, backend="aot_eager"))
        with torch.no_grad(), operation.bound(state):
            return model(stream)

    return forward


def steered(model: nn.Module, term: TermSpec | None = None) -> SteeringState:
    """Attach to a model; the step's two requests are positions 0..2, steered, and 0..1, which are not."""
    state = SteeringState(EngineSettings(bank_rows=1), SHAPE)
    state.bank.put(DIGEST, EAST.tobytes())
    layers.attach(layers.decoder_layers(model, N_LAYERS), state)
    spec = None if term is None else RequestSpec(key="k", terms=[term])
    state.prepare(
        StepView(
            request_ids=["steered", "neighbour"],
            n_scheduled=np.array([3, 2]),
            n_computed=np.array([0, 0]),
            n_prompt={"steered": 3, "neighbour": 2}.__getitem__,
            extra_args=lambda name: spec.to_extra_args() if spec and name == "steered" else None,
        )
    )
    return state


@pytest.mark.parametrize("shape", [(N_TOKENS, D_MODEL), (1, N_TOKENS, D_MODEL)], ids=str)
def test_the_steered_tokens_of_one_tensor_are_changed_with_or_without_a_batch_of_one(run, shape):
    model = Model(alone)
    state = steered(model, TermSpec(layer=1, direction=DIGEST, value=2.0, scope=[1, 3]))
    stream = torch.arange(float(N_TOKENS * D_MODEL)).reshape(shape)
    expected = stream.clone()
    expected[..., 1:3, 0] += 2.0
    for _ in range(2):  # the first pass is checked, the second is not
        assert torch.equal(run(model, stream, state), expected)


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ((4, N_TOKENS, D_MODEL), r"\(4, 5, 4\)"),  # the parallel streams of Gemma 3n
        ((N_TOKENS, D_MODEL + 1), r"\(5, 5\)"),
        ((N_TOKENS,), r"\(5,\)"),
    ],
    ids=str,
)
def test_a_tensor_that_is_not_the_stream_of_each_token_is_refused_before_anything_is_changed(run, shape, named):
    model = Model(alone)
    state = steered(model)
    expected = rf"Layer \(layer 0\) returns shape {named}: .* return \(n_tokens, 4\) or \(1, n_tokens, 4\)"
    with pytest.raises(UnsupportedModelError, match=expected):
        run(model, torch.zeros(shape), state)


@pytest.mark.parametrize("uneven", ["residual", "hidden"])
def test_both_halves_of_a_pair_are_checked(uneven):
    state = steered(Model(alone))
    halves = {"residual": torch.zeros(N_TOKENS, D_MODEL), "hidden": torch.zeros(N_TOKENS, D_MODEL)}
    halves[uneven] = torch.zeros(1, D_MODEL)
    expected = r"\(1, 4\) and \(5, 4\)" if uneven == "hidden" else r"\(5, 4\) and \(1, 4\)"
    with pytest.raises(UnsupportedModelError, match=f"returns shape {expected}"), operation.bound(state):
        operation.intervene(halves["residual"], halves["hidden"], 0, LayerName("0"))


def test_a_model_that_repeats_a_layer_is_refused(run):
    model = Model(alone, order=[0, 1, 2, 1, 2])
    state = steered(model)
    with pytest.raises(UnsupportedModelError, match=r"Layer \(layer 1\) is called twice in one forward pass"):
        run(model, torch.zeros(N_TOKENS, D_MODEL), state)


def test_a_model_that_leaves_a_layer_out_is_refused(run):
    model = Model(alone, order=[0, 2])
    state = steered(model)
    with pytest.raises(UnsupportedModelError, match=r"layers 1 \(Layer\) are not called"):
        run(model, torch.zeros(N_TOKENS, D_MODEL), state)


def test_a_pass_that_does_not_reach_the_model_leaves_the_check_to_the_next(run):
    model = Model(alone, order=[0, 0])
    state = steered(model)
    with operation.bound(state):
        pass
    with pytest.raises(UnsupportedModelError, match="called twice"):
        run(model, torch.zeros(N_TOKENS, D_MODEL), state)


def test_passes_after_the_first_are_not_checked():
    model = Model(alone)
    state = steered(model)
    stream = torch.zeros(N_TOKENS, D_MODEL)
    with operation.bound(state):
        model(stream)
    assert not state.unchecked
    with operation.bound(state):
        model(stream)
        model(stream)


def test_a_tuple_of_an_unknown_class_is_refused_by_name(run):
    model = Model(lambda stream: (stream + 0.0, stream + 1.0))
    state = steered(model)
    with pytest.raises(Exception, match="Layer returns a tuple whose meaning is not known") as caught:
        run(model, torch.zeros(N_TOKENS, D_MODEL), state)
    assert "UnsupportedModelError" in repr(caught.value)


def test_each_known_class_exists_and_its_own_forward_runs():
    for name in layers.TUPLES:
        module, _, qualified = f"{layers.VLLM_MODELS}{name}".rpartition(".")
        known = getattr(import_module(module), qualified)
        assert layers.tuple_reader(known) is layers.summed, name


def test_a_subclass_is_known_as_long_as_it_runs_the_known_forward():
    known = import_module(f"{layers.VLLM_MODELS}llama").LlamaDecoderLayer
    inherits = type("InheritsDecoderLayer", (known,), {})
    returns_otherwise = type("LlamaDecoderLayer", (known,), {"forward": lambda _self, stream: (stream, None)})
    assert layers.tuple_reader(inherits) is layers.summed
    assert layers.tuple_reader(returns_otherwise) is None


def test_a_layer_of_the_same_name_in_another_library_is_not_taken_for_vllms():
    transformers = import_module("transformers.models.llama.modeling_llama")
    assert layers.tuple_reader(transformers.LlamaDecoderLayer) is None
