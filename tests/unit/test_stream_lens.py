"""The lens in a stream over hand-made steps: each position that produces a token is read once, whatever is computed again."""

import re
from dataclasses import replace

import pytest
import torch
from hand_made_steps import view_of
from safetensors.torch import load
from torch import nn
from trait_service.engine.engine_shape import EngineShape
from trait_service.engine.settings import EngineSettings
from trait_service.engine.spec import CaptureSpec, LensSpec, RequestSpec
from trait_service.engine.state import SteeringState
from trait_service.engine.stream_lens import StreamLens

N_LAYERS, D_MODEL, N_VOCABULARY = 3, 8, 20
SHAPE = EngineShape(N_LAYERS, D_MODEL, max_requests=4, max_tokens=64, device=torch.device("cpu"))
LENS = LensSpec(layers=[2, 0], top_k=3)


class Model(nn.Module):
    """Layers that nobody calls, a norm, and a head."""

    def __init__(self, norm: nn.Module | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Identity() for _ in range(N_LAYERS))
        if norm is not None:
            self.norm = norm
        self.head = nn.Linear(D_MODEL, N_VOCABULARY, bias=False)
        self.n_calls = 0

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        self.n_calls += 1
        return 3 * self.head(hidden)


@pytest.fixture
def model() -> Model:
    return Model(nn.RMSNorm(D_MODEL))


@pytest.fixture(params=[False, True], ids=["synchronous", "asynchronous"])
def state(request, model) -> SteeringState:
    return made(model, asynchronous=request.param)


def made(model: Model, *, first_layer: int = 0, ends: bool = True, asynchronous: bool = False) -> SteeringState:
    state = SteeringState(EngineSettings(capture_rows=3), replace(SHAPE, asynchronous=asynchronous))
    layers = {i: layer for i, layer in enumerate(model.layers) if i >= first_layer}
    state.lens = StreamLens(model, layers, N_LAYERS, SHAPE.max_requests, ends=ends, captures=True, n_ranks=1)
    return state


def spec(key: str, lens: LensSpec = LENS) -> RequestSpec:
    return RequestSpec(key=key, lens=lens)


def stream_of(seed: int, position: int, layer: int) -> torch.Tensor:
    """The stream at one position of a request; another one at each, and at each layer."""
    return torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1000 * seed + 10 * position + layer))


def step(state: SteeringState, requests: dict[str, tuple]) -> None:
    """One forward pass: request id -> (spec, n_prompt, n_computed, n_scheduled). The id's number makes the stream."""
    state.prepare(view_of(requests))
    for layer in range(N_LAYERS):
        rows = [stream_of(int(i), c + p, layer) for i, (_, _, c, n) in requests.items() for p in range(n)]
        hidden = torch.ones(len(rows), D_MODEL)
        state.intervene(torch.stack(rows) - hidden, hidden, layer)
    end = state.finish()
    if end is not None:
        end.verdict()


def expected(model: Model, seed: int, positions: list[int], asked: LensSpec = LENS) -> torch.Tensor:
    """`(n_positions, n_layers, vocabulary)`."""
    streams = torch.stack([torch.stack([stream_of(seed, p, layer) for layer in asked.layers]) for p in positions])
    return torch.log_softmax(3 * model.head(model.norm(streams)), -1)


def assert_read(found: torch.Tensor, table: torch.Tensor, top_k: int = LENS.top_k) -> None:
    ids, logprobs = found.view(*table.shape[:2], 2, top_k).unbind(2)
    top = table.topk(top_k)
    assert torch.equal(ids.long(), top.indices)
    torch.testing.assert_close(logprobs, top.values, atol=1e-5, rtol=0)


def fetched(state: SteeringState, key: str, length: int | None = None) -> dict[str, torch.Tensor]:
    return load(state.collect({key: [] if length is None else [length]})["captures"])


@torch.no_grad()
def test_a_prompt_in_pieces_a_decode_and_a_request_that_is_computed_again_read_each_position_once(state, model):
    request = spec("a")
    for computed, n in [(0, 2), (2, 3), (5, 1), (6, 1), (0, 4), (4, 4), (8, 1)]:  # preempted before position 7
        step(state, {"1": (request, 5, computed, n)})
    assert_read(fetched(state, "a")["a/lens/0"], expected(model, 1, [4, 5, 6, 7, 8]))


@torch.no_grad()
def test_requests_of_one_step_read_their_own_layers(state, model):
    other = LensSpec(layers=[1], top_k=5)
    for computed, n in [(0, 3), (3, 1), (4, 1)]:
        plain = (None, 3, computed, n)
        step(state, {"1": (spec("a"), 3, computed, n), "7": plain, "2": (spec("b", other), 3, computed, n)})
    assert_read(fetched(state, "a")["a/lens/0"], expected(model, 1, [2, 3, 4]))
    assert_read(fetched(state, "b")["b/lens/0"], expected(model, 2, [2, 3, 4], other), top_k=5)


@torch.no_grad()
def test_a_position_past_the_end_of_the_text_is_left_out(state, model):
    for computed, n in [(0, 3), (3, 1), (4, 1), (5, 1)]:
        step(state, {"1": (spec("a"), 3, computed, n)})
    assert_read(fetched(state, "a", length=3)["a/lens/0"], expected(model, 1, [2, 3, 4]))


@torch.no_grad()
def test_readings_of_a_request_that_runs_come_from_the_position_that_is_lacking(state, model):
    for computed, n in [(0, 3), (3, 1), (4, 1)]:
        step(state, {"1": (spec("a"), 3, computed, n)})
    for after, positions in [(0, [2, 3, 4]), (2, [2, 3, 4]), (4, [4]), (5, [])]:
        rows = load(state.projections({"a": after}))["a/lens/0"]
        assert len(rows) == len(positions)
        if positions:
            assert_read(rows, expected(model, 1, positions))


@torch.no_grad()
def test_a_vocabulary_that_is_smaller_than_asked_for_leaves_the_rest_empty(state):
    asked = LensSpec(layers=[1], top_k=25)
    step(state, {"1": (spec("a", asked), 3, 0, 3)})
    ids = fetched(state, "a")["a/lens/0"].view(2, 25)[0].tolist()
    assert sorted(ids) == [-1] * 5 + list(range(N_VOCABULARY))


def test_nothing_goes_through_the_head_where_no_request_has_a_lens(state, model):
    capture = RequestSpec(key="a", capture=CaptureSpec(positions=["all[:]"]))
    step(state, {"1": (capture, 3, 0, 3), "2": (None, 3, 0, 3)})
    step(state, {"1": (spec("b"), 3, 0, 2)})  # the prompt has not been read to its end
    assert model.n_calls == 0


def test_a_lens_takes_a_pool_and_gives_it_back(state):
    requests = {str(i): (spec(str(i)), 3, 0, 3) for i in range(3)}
    step(state, requests)
    assert state.stats()["capture_rows_free"] == 0
    step(state, {"9": (spec("nine"), 3, 0, 3)})
    report = state.collect({"nine": []})["reports"]["nine"]
    assert "1 capture rows are needed and 0 of 3 are free" in report["error"]
    for i in requests:
        state.remove(i)
    assert state.stats()["capture_rows_free"] == 3


def test_a_model_without_a_final_norm_and_a_layer_of_an_earlier_stage_fail_the_request():
    for state, message in [
        (made(Model(None)), "no norm was found"),
        (made(Model(nn.RMSNorm(D_MODEL)), first_layer=1), "layer 0 with pipeline parallelism.*from 1 on"),
    ]:
        step(state, {"1": (spec("a"), 3, 0, 3)})
        found = state.collect({"a": []})
        assert re.search(message, found["reports"]["a"]["error"])
        assert found["captures"] == b""


def test_a_stage_without_the_head_reads_nothing_and_refuses_nothing(model):
    state = made(model, ends=False)
    step(state, {"1": (spec("a"), 3, 0, 3)})
    found = state.collect({"a": []})
    assert (found["reports"]["a"]["error"], found["captures"], model.n_calls) == (None, b"", 0)
    assert state.lens.describe() is None


def test_a_norm_that_does_not_take_a_layers_output_fails_the_request_and_not_the_engine():
    state = made(Model(nn.LayerNorm(D_MODEL + 1)))
    step(state, {"1": (spec("a"), 3, 0, 3), "2": (None, 3, 0, 3)})
    assert "does not take a layer's output" in state.collect({"a": []})["reports"]["a"]["error"]


def test_two_positions_in_one_step_fail_the_request(state):
    step(state, {"1": (spec("a"), 3, 0, 5)})
    assert "read 3 positions of one step" in state.collect({"a": []})["reports"]["a"]["error"]


def test_many_streams_go_through_the_head_in_parts(model):
    state = made(model)
    asked = LensSpec(layers=[0, 1, 2], top_k=2)
    step(state, {"1": (spec("a", asked), 3, 0, 3), "2": (spec("b", asked), 3, 0, 3)})
    assert model.n_calls == 2  # 6 streams, at most max_requests together
