"""Requests that join a running batch, leave it half-way, or ask for several completions: nothing changes for the rest,
and nothing is left behind."""

from dataclasses import replace

import pytest
from engine_harness import Job, Req, difference, direction
from trait_service.engine.spec import CaptureSpec, RequestSpec, TermSpec

pytestmark = pytest.mark.engine

N_TOKENS = 20
N_REQUESTS = 10
POOLS = ["prompt[:]", "response[:]"]
CLEAN = ("live_requests", "rows_used", "reports_waiting", "captures_waiting")

JOINS = {0: 0, 1: 0, 2: 3, 3: 5, 4: 5, 5: 6, 6: 7, 7: 10, 8: 12, 9: 14}
LEAVES = {3: 9, 4: 5, 5: 7, 7: 34}
"""3 is aborted while it generates, 4 before its first step, 5 amid its prompt, 7 with both of its completions."""
SEVERAL = {6: 3, 7: 2}
UNSTEERED = 1


@pytest.fixture(scope="module")
def requests(reference, smollm2_path):
    """A configuration each; captures where there is one completion. No pair shares a prompt's length."""
    ref = reference(smollm2_path)
    directions = [direction(ref.d_model, seed) for seed in range(N_REQUESTS)]
    made = []
    for i, d in enumerate(directions):
        text = (
            f"Letter {i}. " + "The ship left the harbour in the morning. " * (20 if i == 5 else 1 + i % 4) + "Then the"
        )
        terms = [TermSpec(layer=(7 * i) % ref.n_layers, direction=d.sha256, value=8.0 + i)]
        capture = None if i in SEVERAL else CaptureSpec(positions=POOLS)
        spec = None if i == UNSTEERED else RequestSpec(key=f"r{i}", terms=terms, capture=capture).model_dump_json()
        sampled = {"temperature": 0.8, "seed": 50 * i, "n": SEVERAL[i]} if i in SEVERAL else {}
        made.append(Req(ref.tokenizer.encode(text), spec, N_TOKENS, salt=f"salt {i}", **sampled))
    return directions, made


@pytest.fixture(scope="module")
def runs(run_engine, smollm2_path, requests):
    """Alone, one after another (each completion as a request of its own); then with joins and leaves."""
    directions, made = requests
    alone = [[replace(request, n=1, seed=request.seed + k)] for request in made for k in range(request.n)]
    moving = [replace(r, joins_at=JOINS[i], leaves_at=LEAVES.get(i)) for i, r in enumerate(made)]
    closing = [Req(made[0].token_ids, None, 2)]
    # Four rows for ten requests, and prompts in pieces: the longest takes several steps.
    options = {"max_num_seqs": 4, "max_num_batched_tokens": 64}
    job = Job(
        smollm2_path,
        [*alone, moving, closing],
        directions=directions,
        options=options,
        settings={"capture_rows": 8},
    )
    return run_engine(job)


@pytest.fixture(scope="module")
def alone(runs, requests):
    """Request -> its completions, each run on an otherwise idle engine."""
    outputs = iter(enumerate(batch[0] for batch in runs.batches))
    return {i: [next(outputs) for _ in range(request.n)] for i, request in enumerate(requests[1])}


def test_requests_that_stay_have_the_logprobs_of_a_run_of_their_own(runs, alone):
    moving = runs.batches[-2]
    for i in JOINS.keys() - LEAVES.keys():
        for (_, single), completion in zip(alone[i], moving[i]["completions"], strict=True):
            assert len(completion["token_ids"]) == N_TOKENS
            assert difference(single, completion) < 1e-3, f"request {i}"


def test_the_completions_of_one_request_differ_and_each_is_steered(runs, requests):
    several = runs.batches[-2][6]
    assert len({tuple(completion["token_ids"]) for completion in several["completions"]}) == SEVERAL[6]
    report, n = runs.reports[-2]["r6"], SEVERAL[6]
    n_prompt = len(requests[1][6].token_ids)
    assert (report["steered_prompt"], report["steered_generated"]) == (n * n_prompt, n * (N_TOKENS - 1))
    assert not report["error"]


def test_what_an_aborted_request_had_put_out_is_what_it_would_have_been(runs, alone):
    moving = runs.batches[-2]
    assert moving[4] is moving[5] is None
    for i in (3, 7):
        for (_, single), partial in zip(alone[i], moving[i]["completions"], strict=True):
            n = len(partial["token_ids"])
            assert 2 <= n < N_TOKENS, f"request {i}"
            assert difference(single, partial, n) < 1e-3, f"request {i}"


def test_captures_of_requests_that_stay_equal_those_of_a_run_of_their_own(runs, alone):
    moving = runs.captures(len(runs.batches) - 2)
    for i in JOINS.keys() - LEAVES.keys() - SEVERAL.keys() - {UNSTEERED}:
        ((batch, _),) = alone[i]
        single = runs.captures(batch)
        assert moving[f"r{i}/count"].tolist() == single[f"r{i}/count"].tolist()
        for name in (f"r{i}/mean", f"r{i}/norm"):
            assert abs(moving[name] - single[name]).max() / abs(single[name]).max() < 1e-3, name


def test_nothing_waits_for_an_aborted_request_and_every_row_comes_back(runs):
    reported = runs.reports[-2].keys()
    assert reported == {f"r{i}" for i in JOINS.keys() - LEAVES.keys() - {UNSTEERED}}
    assert {name: runs.stats[name] for name in CLEAN} == dict.fromkeys(CLEAN, 0)
    assert runs.stats["capture_rows_free"] == 8
