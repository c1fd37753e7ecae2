"""Many configurations in one batch never see each other."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from engine_forms import V1_ASYNC, V1_SYNC, in_forms
from engine_harness import EngineResult, Job, Req, difference, direction, largest_difference
from gated_reference import HOLDS, gated_run
from trait_service.engine.spec import CaptureSpec, GateSpec, RequestSpec, TermSpec

pytestmark = [pytest.mark.engine, in_forms(V1_SYNC, V1_ASYNC)]

N_CONFIGURATIONS = 64
N_TOKENS = 10
READ, PUSHED, N_GATED = 3, 5, 4
"""The layer on which a gate is read, the one that is steered, and generated tokens."""
IN_PIECES = {"max_num_batched_tokens": 64, "max_num_seqs": 16}


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


def spec(i: int, digest: str, other: str, n_layers: int) -> str:
    """Every fourth one has a gate, each way to hold in turn, on the direction of another."""
    layer = (7 * i) % n_layers
    hold = HOLDS[i // 4 % len(HOLDS)]
    when = GateSpec(layer=layer - 1, direction=other, above=0.0, hold=hold) if i % 4 == 1 and layer else None
    term = TermSpec(layer=layer, direction=digest, value=8.0 + i, when=when)
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


@pytest.fixture(scope="module")
def gated(reference, smollm2_path, directions):
    """A prompt of 130 tokens under a gate of each way to hold: what it must do, and the request, with keys 0 and 1.

    Probes, which add nothing, stand at one position each.
    """
    ref = reference(smollm2_path)
    ids = ref.tokenizer.encode("The ferry leaves at nine, unless the fog is thick or the wind turns. " * 12)[:130]
    of_gate, digest = torch.from_numpy(directions[0].array), directions[1].sha256
    found = {}
    for hold in HOLDS:
        added = torch.from_numpy(directions[1].array) * 20.0
        run = gated_run(ref, ids, N_GATED, hold, (READ, of_gate), (PUSHED, added))
        when = GateSpec(layer=READ, direction=directions[0].sha256, above=run.bound, hold=hold)
        terms = [TermSpec(layer=PUSHED, direction=digest, value=20.0, when=when)]
        terms += [
            TermSpec(layer=PUSHED + 1 + at // 8, direction=digest, scope=[at, at + 1], when=when)
            for at in range(len(run.acts))
        ]
        specs = [RequestSpec(key=f"{hold} {i}", terms=terms).model_dump_json() for i in range(2)]
        found[hold] = run, [Req(ids, spec, N_GATED, skip_cache=hold != "token") for spec in specs]
    return found


@dataclass(frozen=True)
class Runs:
    """Batches of the plugin's one engine by name, and a stock engine's."""

    plugin: EngineResult
    stock: EngineResult
    order: list[str]
    alone: range
    """Configurations that also ran one by one: all of them where the engine is synchronous, else every fourth."""

    def outputs(self, name: str) -> list:
        return self.plugin.batches[self.order.index(name)]

    def reports(self, name: str) -> dict:
        return self.plugin.reports[self.order.index(name)]

    def captures(self, name: str) -> dict:
        return self.plugin.captures(self.order.index(name))


@pytest.fixture(scope="module")
def runs(run_engine, form, reference, smollm2_path, prompts, directions, refused, cached, both, gated):
    """All at once, with neighbours, and one by one, among others; and unsteered on an engine without the plugin."""
    n_layers = reference(smollm2_path).n_layers
    steered = [
        Req(p, spec(i, d.sha256, directions[i - 1].sha256, n_layers), N_TOKENS)
        for i, (p, d) in enumerate(zip(prompts, directions, strict=True))
    ]
    neighbours = [Req(p, None, N_TOKENS) for p in prompts[:16]]
    alone = range(0, N_CONFIGURATIONS, 1 if form == V1_SYNC else 4)
    mixed = [request for pair in zip(steered[:16], neighbours, strict=True) for request in pair] + steered[16:]
    batches = {
        "refused": refused,
        "filling the cache": cached[0],
        "cached": cached[1],
        "both": both,
        **{f"{hold} {i}": [requests[i]] for hold, (_, requests) in gated.items() for i in range(2)},
        "together": steered,
        "mixed": mixed,
        **{f"alone {i}": [steered[i]] for i in alone},
    }
    options = {"max_num_seqs": 80}
    plugin = run_engine(Job(smollm2_path, list(batches.values()), directions=directions, options=options))
    stock = run_engine(Job(smollm2_path, [neighbours], plugin=False, options=options))
    return Runs(plugin, stock, list(batches), alone)


def test_each_of_64_configurations_in_one_batch_equals_its_own_single_run(runs):
    for i in runs.alone:
        together, (alone,) = runs.outputs("together")[i], runs.outputs(f"alone {i}")
        assert difference(together, alone) < 1e-3, f"configuration {i}"


def test_the_64_configurations_differ(runs):
    assert len({tuple(output["token_ids"]) for output in runs.outputs("together")}) > N_CONFIGURATIONS // 2


def test_unsteered_neighbours_equal_a_run_without_the_plugin(runs):
    neighbours = runs.outputs("mixed")[1:32:2]
    for i, (neighbour, plain) in enumerate(zip(neighbours, runs.stock.batches[0], strict=True)):
        assert difference(neighbour, plain) < 1e-3, f"neighbour {i}"


def test_every_request_is_reported_and_every_row_comes_back(runs):
    names = ["together", "mixed", *(f"alone {i}" for i in runs.alone)]
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


@pytest.fixture(scope="module")
def chunked(run_engine, smollm2_path, directions, both, gated):
    """An engine that reads long prompts in pieces: steered and captured; and all gated requests at once."""
    batches = [both, [requests[0] for _, requests in gated.values()]]
    return run_engine(Job(smollm2_path, batches, directions=directions[:2], options=IN_PIECES))


@pytest.mark.parametrize("hold", HOLDS)
def test_a_term_acts_at_the_positions_at_which_transformers_hidden_states_are_past_the_bound(
    runs, chunked, gated, hold
):
    """Alone, with its prompt in pieces among others, and where the prompt comes from the cache."""
    asked, requests = gated[hold]
    assert set(asked.acts.tolist()) == {True, False}
    again = runs.outputs(f"{hold} 1")[0]
    ran = [
        (runs.outputs(f"{hold} 0")[0], runs.reports(f"{hold} 0")[f"{hold} 0"]),
        (chunked.batches[1][HOLDS.index(hold)], chunked.reports[1][f"{hold} 0"]),
        (again, runs.reports(f"{hold} 1")[f"{hold} 1"]),
    ]
    assert (again["cached"] > 0) == (hold == "token")
    n_prompt = len(requests[0].token_ids)
    for output, report in ran:
        assert output["token_ids"] == asked.tokens
        assert largest_difference(output["logprobs"], asked.logprobs) < 2e-3
        known = np.arange(len(asked.acts)) >= output["cached"]
        pushed, *probes = report["acted"]
        assert [sum(each) for each in probes] == (asked.acts & known).astype(int).tolist()
        expected = [int((asked.acts & known)[part].sum()) for part in (slice(n_prompt), slice(n_prompt, None))]
        assert list(pushed) == expected
        assert [report["steered_prompt"], report["steered_generated"]] == expected


def test_capture_and_steering_combine_in_chunked_prefill(runs, chunked):
    """A prompt longer than a step's token budget is read in pieces; each position still counts once."""
    assert difference(runs.outputs("both")[0], chunked.batches[0][0]) < 1e-3
    one, other = runs.captures("both"), chunked.captures(0)
    assert one["both/count"].tolist() == other["both/count"].tolist() == [260, 263]
    assert abs(one["both/mean"] - other["both/mean"]).max() < 1e-2
