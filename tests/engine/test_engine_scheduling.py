"""Whatever the scheduler does to a request, its steering and its captures are those of an uninterrupted run."""

import pytest
from engine_forms import V1_ASYNC, V1_SYNC, in_forms
from engine_harness import Job, Req, difference, direction, largest_difference
from trait_service.engine.spec import CaptureSpec, MonitorColumn, MonitorSpec, RequestSpec, TermSpec

pytestmark = [pytest.mark.engine, in_forms(V1_SYNC, V1_ASYNC)]

N_REQUESTS = 8
N_TOKENS = 48


@pytest.fixture(scope="module")
def requests(reference, smollm2_path):
    """Prompts of unequal length, each with a configuration of its own; generated-only and captured ones among them."""
    ref = reference(smollm2_path)
    directions = [direction(ref.d_model, seed) for seed in range(N_REQUESTS)]
    batch = []
    for i, made in enumerate(directions):
        ids = ref.tokenizer.encode(f"Story number {i}. " + "Once upon a time, far away, " * (1 + i % 3) + "there lived")
        term = TermSpec(
            layer=(4 * i) % ref.n_layers,
            direction=made.sha256,
            value=6.0 + i,
            scope="generated" if i % 3 == 2 else "all",
        )
        capture = CaptureSpec(positions=["prompt[:]", "response[:]", "all[4:]"]) if i % 2 else None
        columns = [MonitorColumn(layer=layer, direction=made.sha256) for layer in (2, term.layer)]
        monitor = MonitorSpec(columns=columns) if i % 2 else None
        spec = RequestSpec(key=f"r{i}", terms=[term], capture=capture, monitor=monitor)
        batch.append(Req(ids, spec.model_dump_json(), N_TOKENS, salt=f"configuration {i}"))
    return directions, batch


@pytest.fixture(scope="module")
def runs(run_engine, smollm2_path, requests):
    directions, batch = requests
    roomy = run_engine(Job(smollm2_path, [batch], directions=directions))
    # 12 blocks of 32 tokens for 8 requests of about 80: most of them are put back and computed again.
    tight = {
        "block_size": 32,
        "num_gpu_blocks_override": 12,
        "max_model_len": 256,
        "disable_log_stats": False,
        "max_num_batched_tokens": 64,
        "max_num_seqs": 8,
    }
    return roomy, run_engine(Job(smollm2_path, [batch], directions=directions, options=tight))


def test_requests_were_preempted(runs):
    assert runs[1].stats["preemptions"] >= 3


def test_preempted_and_chunked_requests_have_the_logprobs_of_an_uninterrupted_run(runs):
    roomy, tight = runs
    for i, (one, other) in enumerate(zip(roomy.batches[0], tight.batches[0], strict=True)):
        assert difference(one, other) < 1e-3, f"request {i}"


def test_every_position_is_reported_pooled_and_projected_once(runs, requests):
    roomy, tight = runs
    for i, request in enumerate(requests[1]):
        one, other = roomy.reports[0][f"r{i}"], tight.reports[0][f"r{i}"]
        n_prompt = 1 if i % 3 == 2 else len(request.token_ids)
        assert (one["steered_prompt"], one["steered_generated"]) == (n_prompt, N_TOKENS - 1)
        assert (other["steered_prompt"], other["steered_generated"]) == (n_prompt, N_TOKENS - 1)
    one, other = roomy.captures(0), tight.captures(0)
    assert one.keys() == other.keys()
    for name in one:
        if name.endswith("count"):
            assert one[name].tolist() == other[name].tolist()
        else:
            assert abs(one[name] - other[name]).max() / abs(one[name]).max() < 1e-3, name


def test_a_thousand_configurations_one_after_another_exhaust_nothing(run_engine, reference, smollm2_path):
    """Few rows, few terms: they come back with every request."""
    ref = reference(smollm2_path)
    directions = [direction(ref.d_model, seed) for seed in range(8)]
    ids = ref.tokenizer.encode("Numbers: one, two,")

    def configuration(i: int) -> Req:
        term = TermSpec(layer=i % ref.n_layers, direction=directions[i % 8].sha256, value=1.0 + i / 100)
        capture = CaptureSpec(positions=["prompt[-1]"])
        return Req(ids, RequestSpec(key=f"c{i}", terms=[term], capture=capture).model_dump_json(), 2)

    batches = [[configuration(100 * b + i) for i in range(100)] for b in range(10)]
    job = Job(
        smollm2_path,
        [*batches, [configuration(0), Req(ids, None, 2)]],
        directions=directions,
        options={"max_num_seqs": 16},
        settings={"bank_rows": 8, "terms_per_layer": 1, "capture_rows": 16},
    )
    result = run_engine(job)
    errors = [report["error"] for reports in result.reports for report in reports.values() if report["error"]]
    assert errors == []
    assert result.stats["live_requests"] <= 2  # those of the last step leave with the next one
    _, logprobs = ref.greedy(ids, 2)
    assert largest_difference(result.batches[-1][1]["logprobs"], logprobs) < 1e-3
