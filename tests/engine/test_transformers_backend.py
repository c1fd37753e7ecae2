"""Layers of transformers itself, which vLLM's Transformers backend runs with a batch of one: equal to a hook on them.

The matrix of architectures runs more of them eagerly; here they are compiled too.
"""

import pytest
import tiny_models
import torch
from engine_harness import Job, Req, direction, largest_difference
from trait_service.engine.spec import CaptureSpec, RequestSpec, TermSpec

pytestmark = pytest.mark.engine

STEERED, NEIGHBOUR = [5, 906, 7, 3008, 911], [6000, 21, 2222, 23]
LAYER, VALUE, N_TOKENS = 1, 6.0, 6
SCOPE = [2, 4]


@pytest.fixture(scope="module", params=["Olmo2ForCausalLM", "GPTNeoXForCausalLM"])
def model(request, smollm2_path, tmp_path_factory):
    return tiny_models.make(request.param, tmp_path_factory.mktemp(request.param), smollm2_path)


@pytest.fixture(scope="module")
def hooked(reference, model):
    return reference(model)


@pytest.fixture(scope="module", params=["eager", "compiled"])
def options(request, tmp_path_factory):
    """The compiled graph is traced and cut up as ever, but run without a compiler of C++: what is traced is what is asked."""
    env = {"VLLM_CPU_CI_ENV": "1", "VLLM_CACHE_ROOT": str(tmp_path_factory.mktemp("cache"))}
    return {"options": {"enforce_eager": request.param == "eager", "max_num_seqs": 4}, "env": env}


@pytest.fixture(scope="module")
def east(hooked):
    return direction(hooked.d_model, seed=3)


@pytest.fixture(scope="module")
def result(run_engine, model, options, east):
    """Scoped, steered everywhere, unsteered and captured requests in one batch."""

    def steer(scope) -> str:
        term = TermSpec(layer=LAYER, direction=east.sha256, value=VALUE, scope=scope)
        return RequestSpec(key=str(scope), terms=[term]).model_dump_json()

    capture = RequestSpec(key="capture", capture=CaptureSpec(positions=["prompt[:]", "prompt[-1]"])).model_dump_json()
    asked = [(STEERED, steer(SCOPE)), (STEERED, steer("all")), (NEIGHBOUR, None), (STEERED, capture)]
    batch = [Req(token_ids, spec, max_tokens=N_TOKENS) for token_ids, spec in asked]
    return run_engine(Job(model, [batch], [east], **options))


@pytest.mark.parametrize(("request_", "scope"), [(0, SCOPE), (1, [0, 1000])], ids=["positions", "all"])
def test_a_steered_request_equals_a_hook_on_the_layer(result, hooked, east, request_, scope):
    added = VALUE * torch.from_numpy(east.array)

    def change(stream, positions):
        return stream + added * ((positions >= scope[0]) & (positions < scope[1]))[:, None]

    tokens, logprobs = hooked.greedy(STEERED, N_TOKENS, {LAYER: change})
    _, plain = hooked.greedy(STEERED, N_TOKENS)
    output = result.batches[0][request_]
    assert output["token_ids"] == tokens
    assert largest_difference(output["logprobs"], logprobs) < 1e-3
    assert largest_difference(output["logprobs"][:1], plain) > 0.05


def test_an_unsteered_neighbour_equals_transformers_without_a_hook(result, hooked):
    tokens, logprobs = hooked.greedy(NEIGHBOUR, N_TOKENS)
    output = result.batches[0][2]
    assert output["token_ids"] == tokens
    assert largest_difference(output["logprobs"], logprobs) < 1e-3


def test_every_layer_is_captured_as_transformers_has_it(result, hooked):
    streams = hooked.streams(STEERED)
    expected = torch.stack([streams.mean(1), streams[:, -1]])
    captured = torch.from_numpy(result.captures(0)["capture/mean"])
    assert torch.allclose(captured, expected, atol=1e-3 * float(expected.abs().max()))
