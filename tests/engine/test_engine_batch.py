"""Many configurations in one batch never see each other."""

from dataclasses import dataclass

import pytest
from engine_forms import V1_ASYNC, V1_SYNC, in_forms
from engine_harness import EngineResult, Job, Req, difference, direction
from trait_service.engine.spec import CaptureSpec, RequestSpec, TermSpec

pytestmark = [pytest.mark.engine, in_forms(V1_SYNC, V1_ASYNC)]

N_CONFIGURATIONS = 64
N_TOKENS = 10


@pytest.fixture(scope="module")
def prompts(reference, smollm2_path):
    tokenizer = reference(smollm2_path).tokenizer
    topics = ["bread", "the moon", "a lighthouse", "chess", "an old bridge", "tea", "winter", "a violin"]
    return [
        tokenizer.encode(f"{'Well then. ' * (i % 5)}Tell me something about {topics[i % len(topics)]} and why it")
        for i in range(N_CONFIGURATIONS)
    ]


@pytest.fixture(scope="module")
def directions(reference, smollm2_path):
    return [direction(reference(smollm2_path).d_model, seed) for seed in range(N_CONFIGURATIONS)]


def spec(i: int, digest: str, n_layers: int) -> str:
    layer = (7 * i) % n_layers
    term = TermSpec(layer=layer, direction=digest, value=8.0 + i)
    return RequestSpec(key=f"r{i}", terms=[term]).model_dump_json()


@pytest.fixture(scope="module")
def refused(prompts, directions):
    """Three that cannot be steered as asked, and a neighbour."""
    unknown = RequestSpec(key="unknown", terms=[TermSpec(layer=3, direction="0" * 64, value=5.0)])
    beyond = RequestSpec(key="beyond", terms=[TermSpec(layer=99, direction=directions[0].sha256, value=5.0)])
    return [
        Req(prompts[0], unknown.model_dump_json(), 4),
        Req(prompts[0], None, 4),
        Req(prompts[0], beyond.model_dump_json(), 4),
        Req(prompts[0], None, 4, extra_args={"trait_steering": "{broken"}),
    ]


@pytest.fixture(scope="module")
def cached(reference, smollm2_path):
    """A long prompt, and the same with a capture of positions that stand in the cache by then."""
    ids = reference(smollm2_path).tokenizer.encode("one two three four five " * 60)[:300]
    capture = RequestSpec(key="cached", capture=CaptureSpec(positions=["prompt[:]"])).model_dump_json()
    return [[Req(ids, None, 2, skip_cache=False)], [Req(ids, capture, 2, skip_cache=False)]]


@pytest.fixture(scope="module")
def both(reference, smollm2_path, directions):
    """One long prompt, steered and captured."""
    ids = reference(smollm2_path).tokenizer.encode("The tide comes in and the tide goes out. " * 30)[:260]
    term = TermSpec(layer=5, direction=directions[0].sha256, value=20.0)
    spec = RequestSpec(key="both", terms=[term], capture=CaptureSpec(positions=["prompt[:]", "all[4:]"]))
    return [Req(ids, spec.model_dump_json(), 8)]


@dataclass(frozen=True)
class Runs:
    """Batches of the plugin's one engine by name, and a stock engine's."""

    plugin: EngineResult
    stock: EngineResult
    order: list[str]

    def outputs(self, name: str) -> list:
        return self.plugin.batches[self.order.index(name)]

    def reports(self, name: str) -> dict:
        return self.plugin.reports[self.order.index(name)]

    def captures(self, name: str) -> dict:
        return self.plugin.captures(self.order.index(name))


@pytest.fixture(scope="module")
def runs(run_engine, reference, smollm2_path, prompts, directions, refused, cached, both):
    """All at once, with neighbours, and one by one, among others; and unsteered on an engine without the plugin."""
    n_layers = reference(smollm2_path).n_layers
    steered = [
        Req(p, spec(i, d.sha256, n_layers), N_TOKENS) for i, (p, d) in enumerate(zip(prompts, directions, strict=True))
    ]
    neighbours = [Req(p, None, N_TOKENS) for p in prompts[:16]]
    mixed = [request for pair in zip(steered[:16], neighbours, strict=True) for request in pair] + steered[16:]
    batches = {
        "refused": refused,
        "filling the cache": cached[0],
        "cached": cached[1],
        "both": both,
        "together": steered,
        "mixed": mixed,
        **{f"alone {i}": [request] for i, request in enumerate(steered)},
    }
    options = {"max_num_seqs": 80}
    plugin = run_engine(Job(smollm2_path, list(batches.values()), directions=directions, options=options))
    stock = run_engine(Job(smollm2_path, [neighbours], plugin=False, options=options))
    return Runs(plugin, stock, list(batches))


def test_each_of_64_configurations_in_one_batch_equals_its_own_single_run(runs):
    for i, together in enumerate(runs.outputs("together")):
        (alone,) = runs.outputs(f"alone {i}")
        assert difference(together, alone) < 1e-3, f"configuration {i}"


def test_the_64_configurations_differ(runs):
    assert len({tuple(output["token_ids"]) for output in runs.outputs("together")}) > N_CONFIGURATIONS // 2


def test_unsteered_neighbours_equal_a_run_without_the_plugin(runs):
    neighbours = runs.outputs("mixed")[1:32:2]
    for i, (neighbour, plain) in enumerate(zip(neighbours, runs.stock.batches[0], strict=True)):
        assert difference(neighbour, plain) < 1e-3, f"neighbour {i}"


def test_every_request_is_reported_and_every_row_comes_back(runs):
    names = ["together", "mixed", *(f"alone {i}" for i in range(N_CONFIGURATIONS))]
    assert all(not report["error"] for name in names for report in runs.reports(name).values())
    assert runs.plugin.stats["rows_used"] <= 1  # the last request leaves with the next step


def test_a_request_that_cannot_be_steered_gets_no_text_and_its_neighbour_is_untouched(runs):
    outputs, reports = runs.outputs("refused"), runs.reports("refused")
    assert [output["text"] for output in (outputs[0], outputs[2], outputs[3])] == ["", "", ""]
    assert outputs[1]["token_ids"] == runs.stock.batches[0][0]["token_ids"][:4]
    assert "not in the vector bank" in reports["unknown"]["error"]
    assert "layers 0..29" in reports["beyond"]["error"]


def test_capture_refuses_positions_that_the_prefix_cache_answered(runs):
    assert runs.outputs("cached")[0]["cached"] > 0
    assert "prefix cache" in runs.reports("cached")["cached"]["error"]


def test_capture_and_steering_combine_in_chunked_prefill(runs, run_engine, smollm2_path, directions, both):
    """A prompt longer than a step's token budget is read in pieces; each position still counts once."""
    options = {"max_num_batched_tokens": 64, "max_num_seqs": 16}
    chunked = run_engine(Job(smollm2_path, [both], directions=directions[:1], options=options))
    assert difference(runs.outputs("both")[0], chunked.batches[0][0]) < 1e-3
    one, other = runs.captures("both"), chunked.captures(0)
    assert one["both/count"].tolist() == other["both/count"].tolist() == [260, 263]
    assert abs(one["both/mean"] - other["both/mean"]).max() < 1e-2
