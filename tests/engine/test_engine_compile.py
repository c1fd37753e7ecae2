"""Compiled as on a GPU (in pieces, forced on the CPU), a steered engine makes and keeps as much code as stock vLLM."""

import numpy as np
import pytest
import tiny_models
import torch
from engine_harness import Job, Req, assert_guesses_equal, direction, largest_difference
from trait_service.engine.head_shape import HeadShape
from trait_service.engine.reply_selector import ReplyItem, ReplySelector, ReplyStart
from trait_service.engine.spec import CaptureSpec, LensSpec, RequestSpec, TermSpec

pytestmark = [pytest.mark.engine, pytest.mark.slow]

OPERATION = "trait_steering.intervene"
PROMPT = [5, 6, 7, 8]
LAYER, VALUE = 2, 8.0


@pytest.fixture(scope="module")
def east(reference, tiny_llama_path):
    return direction(reference(tiny_llama_path).d_model, seed=3)


@pytest.fixture(scope="module")
def run(tiny_llama_path, run_engine, east):
    """`run(plugin, batch, folder)`: an engine whose compiled code is kept in `folder`."""

    def start(plugin: bool, batch: list[Req], folder, hook_points=()):
        env = {
            "VLLM_CACHE_ROOT": str(folder / "vllm"),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
            "VLLM_USE_AOT_COMPILE": "1",
        }
        options = {"enforce_eager": False, "max_num_seqs": 4}
        directions = [east] if plugin else []
        job = Job(tiny_llama_path, [batch], directions, options=options, plugin=plugin, env=env, piecewise=True)
        job.settings = {"hook_points": list(hook_points)}
        return run_engine(job)

    return start


@pytest.fixture(scope="module")
def stock(run, tmp_path_factory):
    return run(False, [Req(PROMPT)], tmp_path_factory.mktemp("stock"))


@pytest.fixture(scope="module")
def steered_starts(run, east, tmp_path_factory):
    """The first start compiles, the second loads what the first one kept."""
    folder = tmp_path_factory.mktemp("steered")
    term = TermSpec(layer=LAYER, direction=east.sha256, value=VALUE)
    start = ReplyStart(first=len(PROMPT), opened=True, begin=0, end=1)
    thinking = ReplySelector(reply=start, select=(ReplyItem(part="thinking", start=1),))
    scoped = term.model_copy(update={"scope": [0, 0], "reply": thinking})
    specs = [RequestSpec(key=key, terms=[each]) for key, each in (("steered", term), ("scoped", scoped))]
    batch = [Req(PROMPT), *(Req(PROMPT, spec.model_dump_json()) for spec in specs)]
    return [run(True, batch, folder) for _ in range(2)]


@pytest.fixture(scope="module")
def steered(steered_starts):
    return steered_starts[0]


def test_equal_layers_are_compiled_once_with_the_plugin_as_without_it(stock, steered):
    plain, ours = stock.compilation, steered.compilation
    assert ours["n_compiled"] == plain["n_compiled"] == tiny_models.N_LAYERS + 1
    assert ours["n_artifacts"] == plain["n_artifacts"] < ours["n_compiled"]


def test_the_operation_is_in_the_compiled_pieces_and_splits_none(stock, steered):
    pieces = steered.compilation["pieces"]
    assert [piece["splits"] for piece in pieces] == [piece["splits"] for piece in stock.compilation["pieces"]]
    compiled = [piece["operations"].count(OPERATION) for piece in pieces if not piece["splits"]]
    assert compiled == [0] + [1] * tiny_models.N_LAYERS
    assert not any(OPERATION in piece["operations"] for piece in pieces if piece["splits"])


def test_the_second_start_compiles_nothing(steered_starts):
    assert steered_starts[1].compilation["n_compiled"] == 0


@pytest.mark.parametrize("start", [0, 1], ids=["compiled", "loaded"])
def test_an_unsteered_request_gets_stock_vllms_tokens(stock, steered_starts, start):
    assert steered_starts[start].batches[0][0]["token_ids"] == stock.batches[0][0]["token_ids"]


@pytest.mark.parametrize("start", [0, 1], ids=["compiled", "loaded"])
def test_a_steered_request_equals_a_hook_on_its_layer_and_no_other(
    steered_starts, start, reference, tiny_llama_path, east
):
    added = VALUE * torch.from_numpy(east.array)
    plain, output, _ = steered_starts[start].batches[0]
    tokens, logprobs = reference(tiny_llama_path).greedy(PROMPT, 12, {LAYER: lambda stream, _: stream + added})
    assert output["token_ids"] == tokens
    assert largest_difference(output["logprobs"], logprobs) < 1e-3
    assert output["token_ids"] != plain["token_ids"]


@pytest.mark.parametrize("start", [0, 1], ids=["compiled", "loaded"])
def test_a_scope_that_depends_on_generated_tokens_equals_a_hook_on_its_positions(
    steered_starts, start, reference, tiny_llama_path, east
):
    """The reasoning, which the prompt has opened and nothing closes, from its second position on."""
    added = VALUE * torch.from_numpy(east.array)

    def push(stream, positions):
        return torch.where((positions > len(PROMPT))[:, None], stream + added, stream)

    output = steered_starts[start].batches[0][2]
    tokens, logprobs = reference(tiny_llama_path).greedy(PROMPT, 12, {LAYER: push})
    assert output["token_ids"] == tokens
    assert largest_difference(output["logprobs"], logprobs) < 1e-3
    assert steered_starts[start].reports[0]["scoped"]["acted"] == [[0, 10]]


def test_attention_heads_and_the_lens_are_read_in_compiled_pieces(run, reference, tiny_llama_path, tmp_path):
    ref, layers = reference(tiny_llama_path), [1, 0]
    heads = RequestSpec(key="heads", capture=CaptureSpec(positions=["all[:]"], at="head_out"))
    lens = RequestSpec(key="lens", lens=LensSpec(layers=layers, top_k=4))
    batch = [Req(PROMPT, spec.model_dump_json()) for spec in (heads, lens)]
    result = run(True, batch, tmp_path, ["head_out"])
    seen = [*PROMPT, *result.batches[0][0]["token_ids"][:-1]]
    shape = HeadShape(**result.info["heads"])
    found = shape.take(result.captures(0)["heads/mean"], None)[0]
    np.testing.assert_allclose(found, ref.heads(seen).numpy().mean(1), atol=1e-4)
    assert_guesses_equal(result.captures(0)["lens/lens/0"], ref.guesses(seen, layers)[len(PROMPT) - 1 :])
