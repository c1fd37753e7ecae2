"""The operation at a layer's output: where the stream is in it, and which models are refused in their first forward pass."""

import hashlib
from contextlib import nullcontext
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn
from trait_service.engine import layer_rules, layers, operation
from trait_service.engine.engine_shape import EngineShape
from trait_service.engine.errors import UnsupportedModelError
from trait_service.engine.layer_lists import decoder_layers
from trait_service.engine.runner_view import StepView
from trait_service.engine.settings import EngineSettings
from trait_service.engine.spec import RequestSpec, TermSpec
from trait_service.engine.state import SteeringState
from vllm.forward_context import BatchDescriptor, ForwardContext, override_forward_context
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


def steered(model: nn.Module, term: TermSpec | None = None, rule: str | None = "single") -> SteeringState:
    """Attach to a model; the step's two requests are positions 0..2, steered, and 0..1, which are not."""
    given = [] if rule is None else [f"{layers.class_name(Layer)}={rule}"]
    state = SteeringState(EngineSettings(bank_rows=1, layer_rule=given), SHAPE)
    state.bank.put(DIGEST, EAST.tobytes())
    layers.attach(decoder_layers(model, N_LAYERS), state)
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


@pytest.mark.parametrize("n_tokens", [N_TOKENS, N_TOKENS + 1, None])
def test_a_layer_must_return_a_row_for_each_token_of_the_step(n_tokens):
    """vLLM says how many there are, except where it replays nothing and pads nothing."""
    model = Model(alone)
    state = steered(model)
    descriptor = None if n_tokens is None else BatchDescriptor(num_tokens=n_tokens)
    context = ForwardContext(no_compile_layers={}, attn_metadata={}, slot_mapping={}, batch_descriptor=descriptor)
    refused = nullcontext()
    if n_tokens == N_TOKENS + 1:
        refused = pytest.raises(UnsupportedModelError, match=r"returns 5 rows in a step of 6 tokens")
    with override_forward_context(context), operation.bound(state), refused:
        model(torch.zeros(N_TOKENS, D_MODEL))


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


FORMS = {
    "pair": lambda stream: (stream * 0.25, stream * 0.75),
    "first": lambda stream: (stream + 0.0, stream * 3.0),
    "single": alone,
}


class Chain(Model):
    """A model that reads its layers' outputs as the rule says, so that a rule that is wrong shows in its result."""

    def __init__(self, rule: str) -> None:
        super().__init__(FORMS[rule])
        self.rule = rule

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            output = layer(stream)
            stream = {"pair": sum, "first": lambda halves: halves[0], "single": lambda whole: whole}[self.rule](output)
        return stream * 1.0


@pytest.mark.parametrize("rule", FORMS)
@pytest.mark.parametrize("shape", [(N_TOKENS, D_MODEL), (1, N_TOKENS, D_MODEL)], ids=str)
def test_each_rule_reads_and_changes_the_stream(run, rule, shape):
    """An ablation reads what it changes: the projection on the direction must be zero after it."""
    model = Chain(rule)
    state = steered(model, TermSpec(layer=2, direction=DIGEST, operation="ablate", scope=[1, 3]), rule)
    stream = torch.arange(1.0, 1 + N_TOKENS * D_MODEL).reshape(shape)
    expected = stream.clone()
    expected[..., 1:3, 0] = 0.0
    assert torch.allclose(run(model, stream, state), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("returns", "rule"), [(a, b) for a in FORMS for b in FORMS if (a == "single") != (b == "single")]
)
def test_a_layer_that_returns_another_form_than_its_rule_says_is_refused(run, returns, rule):
    model = Model(FORMS[returns])
    state = steered(model, rule=rule)
    with pytest.raises(Exception, match="of another form than its rule says") as caught:
        run(model, torch.zeros(N_TOKENS, D_MODEL), state)
    assert "UnsupportedModelError" in repr(caught.value)


@pytest.mark.parametrize("half", [0, 1])
def test_a_pair_without_one_of_its_halves_is_refused(run, half):
    model = Model(lambda stream: (None, stream) if half == 0 else (stream, None))
    state = steered(model, rule="pair")
    with pytest.raises(Exception, match="of another form than its rule says"):
        run(model, torch.zeros(N_TOKENS, D_MODEL), state)


# ----------------------------------------------------------------------------------------------------------- the tables


@pytest.mark.parametrize("returns", FORMS)
def test_a_class_in_no_table_is_refused_with_its_place_what_it_returns_and_what_to_do(returns):
    name = layers.class_name(Layer)
    expected = (
        rf"what {name} returns \(.*test_layers\.py:\d+, which returns self\.returns\(stream\)\) is not known: add it to .*"
        rf"--layer-rule '{name}=pair'"
    )
    with pytest.raises(UnsupportedModelError, match=expected):
        steered(Model(FORMS[returns]), rule=None)


def existing(name: str) -> type[nn.Module] | None:
    """A class of the tables; None if the installed release of vLLM has none of that name, or cannot import it here."""
    module, _, qualified = name.rpartition(".")
    try:
        found = import_module(module if module.startswith("vllm.") else layer_rules.VLLM_MODELS + module)
    except ImportError:
        return None
    return getattr(found, qualified)


def test_each_class_of_the_tables_runs_a_forward_of_its_own():
    names = [*layer_rules.RULES, *layer_rules.REFUSED]
    found = {name: known for name in names if (known := existing(name)) is not None}
    assert len(found) >= 95
    assert {layers.class_name(known) for known in found.values()} == set(found)


def test_a_class_is_in_one_table_only():
    names = [name for names in layer_rules.RULES_OF.values() for name in names]
    assert len(set(names)) == len(names)
    assert not set(names) & set(layer_rules.REFUSED)
    assert set(names) >= {
        *layer_rules.SCALED_IN_FLOAT16,
        *layer_rules.REDUCED_BY_THE_NEXT_NORM,
        *layer_rules.PAIR_WHERE_SET,
    }


def made(kind: type[nn.Module], **attributes) -> nn.Module:
    """A layer without weights, for what depends on its class alone."""
    layer = kind.__new__(kind)
    nn.Module.__init__(layer)
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


ONES, TWOS = torch.ones(2, 4), torch.full((2, 4), 2.0)


def test_a_subclass_is_known_as_long_as_it_runs_the_known_forward():
    llama = existing("llama.LlamaDecoderLayer")
    inherits = type("InheritsDecoderLayer", (llama,), {})
    returns_otherwise = type("LlamaDecoderLayer", (llama,), {"forward": lambda _self, stream: (stream, None)})
    assert layers.reader(made(inherits), {})((ONES, TWOS)) == (TWOS, ONES)
    with pytest.raises(UnsupportedModelError, match="is not known"):
        layers.reader(made(returns_otherwise), {})


@pytest.mark.parametrize("name", layer_rules.REFUSED)
def test_no_option_overrules_a_refusal(name):
    if (known := existing(name)) is None:
        pytest.skip("not in this release")
    with pytest.raises(UnsupportedModelError, match="is not supported: "):
        layers.reader(made(known), {name: "single"})


def test_a_rule_that_contradicts_the_table_is_refused():
    with pytest.raises(
        UnsupportedModelError, match=r"--layer-rule says pair of bloom\.BloomBlock, which is known to be single"
    ):
        layers.reader(made(existing("bloom.BloomBlock")), {"bloom.BloomBlock": "pair"})


def test_a_rule_for_no_layer_of_the_model_is_refused():
    state = SteeringState(EngineSettings(bank_rows=1, layer_rule=["other.Layer=single"]), SHAPE)
    known = {0: made(existing("bloom.BloomBlock"))}
    with pytest.raises(
        UnsupportedModelError, match=r"names other\.Layer, and the model's layers are bloom\.BloomBlock"
    ):
        layers.attach(known, state)


@pytest.mark.parametrize("text", ["Layer=pair", "a.Layer", "a.Layer=both", "a b.Layer=pair", "=pair", ""])
def test_an_option_of_another_form_is_refused(text):
    with pytest.raises(ValueError, match=r"module\.Class=rule"):
        EngineSettings(layer_rule=[text])


def test_cohere_with_an_rms_norm_returns_a_pair_in_033():
    moe = existing("cohere2_moe.Cohere2MoeDecoderLayer")
    assert layers.reader(made(moe, uses_rms_norm=False), {})((ONES, TWOS)) == (ONES, None)
    assert layers.reader(made(moe, uses_rms_norm=True), {})((ONES, TWOS)) == (TWOS, ONES)


@pytest.mark.parametrize("name", layer_rules.SCALED_IN_FLOAT16)
def test_layers_that_scale_their_stream_are_refused_in_float16(name):
    found = {0: made(existing(name))}
    layers.refuse(found, torch.bfloat16, 8)
    with pytest.raises(UnsupportedModelError, match="--dtype bfloat16"):
        layers.refuse(found, torch.float16, 1)


def test_layers_whose_sum_is_left_to_the_next_are_refused_on_several_ranks():
    deepseek = existing("vllm.models.deepseek_v32.nvidia.model.DeepseekV32DecoderLayer")
    found = {0: made(deepseek)}
    layers.refuse(found, torch.bfloat16, 1)
    with pytest.raises(UnsupportedModelError, match="--tensor-parallel-size 1"):
        layers.refuse(found, torch.bfloat16, 2)


# -------------------------------------------------------------------------------------------------- layers of transformers


def test_layers_of_transformers_are_read_by_its_own_definition():
    read = layers.reader(made(import_module("transformers.models.llama.modeling_llama").LlamaDecoderLayer), {})
    for output in (ONES[None], (ONES[None],), (ONES[None], TWOS)):
        residual, hidden = read(output)
        assert hidden is None
        assert torch.equal(residual, ONES)
        assert residual.data_ptr() == ONES.data_ptr()
    assert read(torch.zeros(4, 2, 4))[0].shape == (4, 2, 4)
    assert read((None, ONES)) is None


def test_a_third_dimension_of_vllms_own_layers_is_no_batch():
    """One token of a model with several streams would look like a batch of one."""
    residual, _ = layers.reader(made(existing("bloom.BloomBlock")), {})(torch.zeros(1, 4, 4))
    assert residual.shape == (1, 4, 4)


# -------------------------------------------------------------------------------------------------------- finding the layers


class Named(nn.Module):
    """Modules at dotted names: a number is a list of as many blocks, a list is the blocks themselves."""

    def __init__(self, **parts) -> None:
        super().__init__()
        for name, part in parts.items():
            module = nn.ModuleList(Layer(alone) for _ in range(part)) if isinstance(part, int) else part
            self.add_module(name, nn.ModuleList(module) if isinstance(module, list) else module)


@pytest.mark.parametrize("name", ["layers", "h", "blocks"])
@pytest.mark.parametrize("around", ["model", "transformer", "backbone", "decoder"])
def test_a_list_of_layers_is_found_by_each_of_its_names(name, around):
    blocks = nn.ModuleList(Layer(alone) for _ in range(3))
    assert decoder_layers(Named(**{around: Named(**{name: blocks})}), 3) == dict(enumerate(blocks))


def test_a_list_of_another_length_is_not_taken():
    with pytest.raises(
        UnsupportedModelError, match=r"the config says 4 decoder layers, .* found.*: model\.layers \(3\)"
    ):
        decoder_layers(Named(model=Named(layers=3)), 4)
    with pytest.raises(UnsupportedModelError, match=r"found.*: none"):
        decoder_layers(Named(model=Named(other=3)), 3)


class Multimodal(Named):
    """A wrapper that says which part writes the text, as vLLM's do."""

    def get_language_model(self):
        return self.writer


def test_of_two_lists_of_the_same_length_the_language_models_is_taken():
    tower, writer = Named(blocks=3), Named(layers=3)
    assert list(decoder_layers(Multimodal(tower=tower, writer=writer), 3).values()) == list(writer.layers)
    assert list(decoder_layers(Named(visual=tower, language_model=writer), 3).values()) == list(writer.layers)
    with pytest.raises(UnsupportedModelError, match=r"visual\.blocks \(3\), writer\.layers \(3\)"):
        decoder_layers(Named(visual=tower, writer=writer), 3)


def test_a_tower_is_not_taken_for_a_language_model_of_another_length():
    with pytest.raises(UnsupportedModelError, match="says 3 decoder layers"):
        decoder_layers(Multimodal(tower=Named(blocks=3), writer=Named(layers=4)), 3)


def test_a_model_that_does_not_say_which_part_writes_is_searched_whole():
    class Unmarked(Named):
        def get_language_model(self):
            raise NotImplementedError

    tower = Named(layers=3)
    assert list(decoder_layers(Unmarked(model=tower), 3).values()) == list(tower.layers)


def test_the_same_layers_under_two_names_are_counted_once():
    shared = nn.ModuleList(Layer(alone) for _ in range(3))
    again = nn.ModuleList(shared)
    assert list(decoder_layers(Named(model=Named(layers=shared), draft=Named(layers=again)), 3).values()) == list(
        shared
    )


def test_a_layer_at_two_indexes_of_its_list_is_refused():
    one = Layer(alone)
    with pytest.raises(UnsupportedModelError, match=r"model\.layers holds the same layer at several indexes"):
        decoder_layers(Named(model=Named(layers=[one, one])), 2)


def test_stand_ins_for_layers_of_other_workers_are_counted_and_left_out():
    from vllm.model_executor.models.utils import PPMissingLayer

    here = Layer(alone)
    assert decoder_layers(Named(model=Named(layers=[PPMissingLayer(), here, PPMissingLayer()])), 3) == {1: here}
