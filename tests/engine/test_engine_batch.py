"""Many configurations in one batch never see each other."""

import pytest
from engine_lab import Job, Req, difference, direction
from trait_service.engine.spec import CaptureSpec, RequestSpec, TermSpec

pytestmark = pytest.mark.engine

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
def runs(run_engine, reference, smollm2_path, prompts, directions):
    """The plugin's engine (all at once with neighbours, then one by one) and a stock engine."""
    n_layers = reference(smollm2_path).n_layers
    steered = [
        Req(p, spec(i, d.sha256, n_layers), N_TOKENS) for i, (p, d) in enumerate(zip(prompts, directions, strict=True))
    ]
    neighbours = [Req(p, None, N_TOKENS) for p in prompts[:16]]
    mixed = [request for pair in zip(steered[:16], neighbours, strict=True) for request in pair] + steered[16:]
    batches = [steered, mixed, *([request] for request in steered)]
    options = {"max_num_seqs": 80}
    plugin = run_engine(Job(smollm2_path, batches, directions=directions, options=options))
    stock = run_engine(Job(smollm2_path, [neighbours], plugin=False, options=options))
    return plugin, stock


def test_each_of_64_configurations_in_one_batch_equals_its_own_single_run(runs):
    plugin, _ = runs
    for i, together in enumerate(plugin.batches[0]):
        (alone,) = plugin.batches[2 + i]
        assert difference(together, alone) < 1e-3, f"configuration {i}"


def test_the_64_configurations_differ(runs):
    plugin, _ = runs
    assert len({tuple(output["token_ids"]) for output in plugin.batches[0]}) > N_CONFIGURATIONS // 2


def test_unsteered_neighbours_equal_a_run_without_the_plugin(runs):
    plugin, stock = runs
    neighbours = plugin.batches[1][1:32:2]
    for i, (neighbour, plain) in enumerate(zip(neighbours, stock.batches[0], strict=True)):
        assert difference(neighbour, plain) < 1e-3, f"neighbour {i}"


def test_every_request_is_reported_and_every_row_comes_back(runs):
    plugin, _ = runs
    assert all(not report["error"] for reports in plugin.reports for report in reports.values())
    assert plugin.stats["rows_used"] <= 1  # the last request leaves with the next step


def test_a_request_that_cannot_be_steered_gets_no_text_and_its_neighbour_is_untouched(
    run_engine, smollm2_path, prompts, directions
):
    unknown = RequestSpec(key="unknown", terms=[TermSpec(layer=3, direction="0" * 64, value=5.0)]).model_dump_json()
    beyond = RequestSpec(
        key="beyond", terms=[TermSpec(layer=99, direction=directions[0].sha256, value=5.0)]
    ).model_dump_json()
    batch = [
        Req(prompts[0], unknown, 4),
        Req(prompts[0], None, 4),
        Req(prompts[0], beyond, 4),
        Req(prompts[0], None, 4, extra_args={"trait_steering": "{broken"}),
    ]
    result = run_engine(Job(smollm2_path, [batch], directions=directions[:1]))
    outputs = result.batches[0]
    assert [output["text"] for output in (outputs[0], outputs[2], outputs[3])] == ["", "", ""]
    assert outputs[1]["text"]
    assert "not in the vector bank" in result.reports[0]["unknown"]["error"]
    assert "layers 0..29" in result.reports[0]["beyond"]["error"]


def test_capture_refuses_positions_that_the_prefix_cache_answered(run_engine, reference, smollm2_path):
    long = reference(smollm2_path).tokenizer.encode("one two three four five " * 60)[:300]
    capture = RequestSpec(key="cached", capture=CaptureSpec(positions=["prompt[:]"])).model_dump_json()
    batches = [[Req(long, None, 2, skip_cache=False)], [Req(long, capture, 2, skip_cache=False)]]
    result = run_engine(Job(smollm2_path, batches))
    assert result.batches[1][0]["cached"] > 0
    assert "prefix cache" in result.reports[1]["cached"]["error"]


def test_capture_and_steering_combine_in_chunked_prefill(run_engine, reference, smollm2_path, directions):
    """A prompt longer than a step's token budget is read in pieces; each position still counts once."""
    ids = reference(smollm2_path).tokenizer.encode("The tide comes in and the tide goes out. " * 30)[:260]
    term = TermSpec(layer=5, direction=directions[0].sha256, value=20.0)
    both = RequestSpec(key="both", terms=[term], capture=CaptureSpec(positions=["prompt[:]", "all[4:]"]))
    batch = [[Req(ids, both.model_dump_json(), 8)]]
    whole = run_engine(Job(smollm2_path, batch, directions=directions[:1]))
    chunked = run_engine(
        Job(smollm2_path, batch, directions=directions[:1], options={"max_num_batched_tokens": 64, "max_num_seqs": 16})
    )
    assert difference(whole.batches[0][0], chunked.batches[0][0]) < 1e-3
    assert whole.captures(0)["both/count"].tolist() == chunked.captures(0)["both/count"].tolist() == [260, 263]
    assert abs(whole.captures(0)["both/mean"] - chunked.captures(0)["both/mean"]).max() < 1e-2
