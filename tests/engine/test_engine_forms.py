"""Steps, ends and counts are the same whatever way vLLM schedules and runs: V1 or V2, synchronous or not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_forms import FORMS, V1_SYNC, V2_ASYNC, in_forms
from engine_harness import Job, Req, assert_guesses_equal, difference, direction, largest_difference
from gated_reference import HOLDS, gated_run, open_at
from selected_reference import held, selected_run
from trait_service.engine.reply_selector import ReplyItem, ReplySelector, ReplyStart
from trait_service.engine.spec import CaptureSpec, GateSpec, LensSpec, MonitorColumn, MonitorSpec, RequestSpec, TermSpec

pytestmark = [pytest.mark.engine, in_forms(*FORMS)]

PROMPT = [11, 12, 13, 14, 15, 16, 17]
N_TOKENS = 12
STEERED, WATCHED = 1, 2
VALUE = 6.0
GENTLE = 1.0  # under it the reply does not repeat itself
OPTIONS = {"max_model_len": 64, "max_num_seqs": 8, "max_num_batched_tokens": 64, "disable_log_stats": False}


def spec_of(key: str, digest: str, **parts) -> RequestSpec:
    parts.setdefault("terms", [TermSpec(layer=STEERED, direction=digest, value=VALUE)])
    return RequestSpec(key=key, **parts)


def whole(key: str, digest: str, **column) -> RequestSpec:
    """Steered, captured and monitored."""
    return spec_of(
        key,
        digest,
        capture=CaptureSpec(positions=["prompt[:]", "response[:]", "all[5:]"]),
        monitor=MonitorSpec(columns=[MonitorColumn(layer=WATCHED, direction=digest, **column)]),
    )


@pytest.fixture(scope="module")
def made(reference, tiny_llama_path):
    return direction(reference(tiny_llama_path).d_model, seed=5)


@pytest.fixture(scope="module")
def expected(reference, tiny_llama_path, made):
    """Tokens, log-probabilities and streams of the steered model, by transformers with a hook."""
    ref = reference(tiny_llama_path)
    added = torch.from_numpy(made.array) * VALUE
    return ref.greedy(PROMPT, N_TOKENS, {STEERED: lambda stream, _: stream + added})


@pytest.fixture(scope="module")
def projections(reference, tiny_llama_path, made, expected):
    """The steered stream's projection at each position that the engine computes."""
    ref = reference(tiny_llama_path)
    added = torch.from_numpy(made.array) * VALUE

    def steer(_module, _args, output):
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    handle = ref.model.model.layers[STEERED].register_forward_hook(steer)
    try:
        streams = ref.streams([*PROMPT, *expected[0][:-1]])
    finally:
        handle.remove()
    return (streams[WATCHED] @ torch.from_numpy(made.array)).numpy()


def read_by_lens(key: str, digest: str, **parts) -> RequestSpec:
    """Steered, monitored from the reply on, and read at the steered layer and at the one behind it."""
    monitor = MonitorSpec(columns=[MonitorColumn(layer=WATCHED, direction=digest)], prompt=False)
    return spec_of(key, digest, monitor=monitor, lens=LensSpec(layers=[WATCHED, STEERED], top_k=4), **parts)


def gated_spec(key: str, digest: str, hold: str, bound: float) -> RequestSpec:
    """A term that acts where the stream of the layer before is above a bound on the same direction."""
    when = GateSpec(layer=STEERED - 1, direction=digest, above=bound, hold=hold)
    return spec_of(key, digest, terms=[TermSpec(layer=STEERED, direction=digest, value=VALUE, when=when)])


@pytest.fixture(scope="module")
def gated(reference, tiny_llama_path, made):
    """What a term must do under a gate of each way to hold, by transformers."""
    of_gate = torch.from_numpy(made.array)
    return {
        hold: gated_run(
            reference(tiny_llama_path), PROMPT, N_TOKENS, hold, (STEERED - 1, of_gate), (STEERED, of_gate * VALUE)
        )
        for hold in HOLDS
    }


@pytest.fixture(scope="module")
def selected(reference, tiny_llama_path, made):
    """The reply of transformers where a term acts on its reasoning."""
    return selected_run(reference(tiny_llama_path), PROMPT, N_TOKENS, (STEERED, torch.from_numpy(made.array) * GENTLE))


def selecting(key: str, digest: str, run, part="thinking", **fields) -> RequestSpec:
    """Terms that act on a part of a reply, and on a token of it without any effect."""
    reasons, marked = (run.selector(len(PROMPT), item) for item in (ReplyItem(part=part), ReplyItem(token=run.end)))
    shared = {"direction": digest, "scope": [0, 0]}
    terms = [
        TermSpec(layer=STEERED, value=GENTLE, reply=reasons, **shared),
        TermSpec(layer=WATCHED, value=0.0, reply=marked, **shared),
    ]
    return spec_of(key, digest, terms=terms, **fields)


@pytest.fixture(scope="module")
def result(run_engine, form, tiny_llama_path, made, expected, projections, gated, selected):
    """All cases on one engine, each with an unsteered neighbour."""
    digest, tokens = made.sha256, expected[0]
    stop_at = next(i for i in range(3, N_TOKENS) if tokens.index(tokens[i]) == i)
    generated = projections[len(PROMPT) - 1 :]
    # A position past the first few whose projection is below all before it.
    bound_at = next(i for i in range(3, N_TOKENS - 2) if generated[i] < generated[:i].min())
    limit = float(generated[:bound_at].min() + generated[bound_at]) / 2
    bounded = spec_of(
        "bound",
        digest,
        monitor=MonitorSpec(columns=[MonitorColumn(layer=WATCHED, direction=digest, below=limit, stop=True)]),
    )
    cases = {
        "length": [Req(PROMPT, whole("length", digest).model_dump_json(), N_TOKENS)],
        "stop": [Req(PROMPT, whole("stop", digest).model_dump_json(), N_TOKENS, stop_token_ids=[tokens[stop_at]])],
        "bound": [Req(PROMPT, bounded.model_dump_json(), N_TOKENS, min_tokens=N_TOKENS)],
        "failed": [
            Req(PROMPT, spec_of("failed", "0" * 64).model_dump_json(), N_TOKENS, min_tokens=N_TOKENS, skip_cache=False)
        ],
        "again": [Req(PROMPT, whole("again", digest).model_dump_json(), N_TOKENS, skip_cache=True)],
        "two": [
            Req(
                PROMPT,
                whole("two", digest).model_copy(update={"capture": None, "n": 2}).model_dump_json(),
                N_TOKENS,
                n=2,
                temperature=1.0,
            )
        ],
    }
    lens = Req(PROMPT, read_by_lens("lens", digest).model_dump_json(), N_TOKENS, skip_cache=False)
    cases["lens"] = [replace(lens, stop_token_ids=[tokens[stop_at]])]
    two = read_by_lens("guesses", digest, n=2)
    cases["guesses"] = [Req(PROMPT, two.model_dump_json(), N_TOKENS, n=2, temperature=1.0)]
    for hold, run in gated.items():
        cases[hold] = [Req(PROMPT, gated_spec(hold, digest, hold, run.bound).model_dump_json(), N_TOKENS)]
    cases["selected"] = [Req(PROMPT, selecting("selected", digest, selected).model_dump_json(), N_TOKENS)]
    sampled = selecting("sampled", digest, selected, "answer", n=2).model_dump_json()
    cases["sampled"] = [Req(PROMPT, sampled, N_TOKENS, n=2, temperature=1.0)]
    cases["several"] = [
        Req(
            PROMPT,
            gated_spec(f"two {hold}", digest, hold, run.bound).model_copy(update={"n": 2}).model_dump_json(),
            N_TOKENS,
            n=2,
            temperature=1.0,
        )
        for hold, run in gated.items()
    ]
    if form != V2_ASYNC:  # Triton's interpreter is slow with grammars
        at_once = MonitorColumn(layer=WATCHED, direction=digest, above=-1e9, stop=True)
        spec = spec_of("grammar", digest, monitor=MonitorSpec(columns=[at_once]))
        cases["grammar"] = [Req(PROMPT, spec.model_dump_json(), N_TOKENS, json_schema={"type": "object"})]
    plain = Req(PROMPT[::-1], None, N_TOKENS)
    batches = [[*requests, plain] for requests in cases.values()]
    run = run_engine(Job(tiny_llama_path, batches, directions=[made], options=OPTIONS))
    run.order, run.stop_at, run.bound_at = list(cases), stop_at, bound_at
    return run


def case(result, name: str):
    """Outputs, report and, where it captures, tensors of a case."""
    batch = result.order.index(name)
    captures = {} if name in ("failed", "selected", "sampled", *HOLDS) else result.captures(batch)
    return result.batches[batch][0], result.reports[batch][name], captures


def test_the_engine_runs_in_the_form_that_is_named(result, form):
    runner = result.info["runner"]
    assert runner == ("TraitCPUModelRunnerV2" if form == "v2-async" else "TraitCPUModelRunner")
    assert result.info["scheduler"] == ("TraitScheduler" if form == V1_SYNC else "TraitAsyncScheduler")


def test_a_steered_request_equals_transformers_with_a_hook(result, expected):
    output, _, _ = case(result, "length")
    assert output["token_ids"] == expected[0]
    assert largest_difference(output["logprobs"], expected[1]) < 1e-3


def test_unsteered_neighbours_are_all_alike(result):
    first, *others = [batch[-1] for batch in result.batches]
    for other in others:
        assert difference(first, other) < 1e-4


@pytest.mark.parametrize("hold", HOLDS)
def test_a_gate_opens_where_transformers_hidden_states_are_past_its_bound(result, gated, hold):
    output, report, _ = case(result, hold)
    run, n = gated[hold], len(PROMPT)
    assert output["token_ids"] == run.tokens
    assert largest_difference(output["logprobs"], run.logprobs) < 1e-3
    assert report["acted"] == [[int(run.acts[:n].sum()), int(run.acts[n:].sum())]]


def test_a_replys_reasoning_is_steered_as_by_a_hook_that_reads_the_tokens_so_far(result, selected):
    output, report, _ = case(result, "selected")
    assert output["token_ids"] == selected.tokens
    assert largest_difference(output["logprobs"], selected.logprobs) < 1e-3
    assert report["acted"] == acted_in([output["token_ids"]], selected)
    assert report["acted"][0][1] > 1


def test_each_completion_is_steered_by_its_own_tokens(result, selected):
    output, report, _ = case(result, "sampled")
    assert report["acted"] == acted_in([each["token_ids"] for each in output["completions"]], selected, "answer")
    assert report["acted"][0][1] > 1


def acted_in(replies, run, part="thinking") -> list[list[int]]:
    """Positions of `selecting`'s terms, from finished replies, whose last token does not go through the model."""
    reasons = sum(held(part, [*PROMPT, *each[:-1]], len(PROMPT), run.begin, run.end).sum() for each in replies)
    return [[0, int(reasons)], [0, sum(each[:-1].count(run.end) for each in replies)]]


def test_counts_are_exact_when_the_length_ends_a_request(result, projections):
    _, report, captures = case(result, "length")
    n = len(PROMPT)
    assert (report["steered_prompt"], report["steered_generated"]) == (n, N_TOKENS - 1)
    assert captures["length/count"].tolist() == [n, N_TOKENS - 1, n + N_TOKENS - 1 - 5]
    np.testing.assert_allclose(captures["length/projections/0"][:, 0], projections, atol=1e-3)


def test_counts_means_and_projections_end_with_a_stop_token(result, projections, made):
    """Asynchronous scheduling computes one position more before it knows."""
    output, report, captures = case(result, "stop")
    n, generated = len(PROMPT), result.stop_at + 1
    assert len(output["token_ids"]) == generated
    assert (report["steered_prompt"], report["steered_generated"]) == (n, generated - 1)
    assert captures["stop/count"].tolist() == [n, generated - 1, n + generated - 1 - 5]
    np.testing.assert_allclose(captures["stop/projections/0"][:, 0], projections[: n + generated - 1], atol=1e-3)
    means = captures["stop/mean"][:, WATCHED] @ made.array
    spans = [projections[:n], projections[n : n + generated - 1], projections[5 : n + generated - 1]]
    np.testing.assert_allclose(means, [span.mean() for span in spans], atol=1e-3)


def guesses_of(reference, tiny_llama_path, made, generated: list[int]):
    """Log-probabilities that transformers' norm and head make of the two layers at the positions that produced these tokens."""
    added = torch.from_numpy(made.array) * VALUE
    seen, changes = [*PROMPT, *generated[:-1]], {STEERED: lambda stream, _: stream + added}
    return reference(tiny_llama_path).guesses(seen, [WATCHED, STEERED], changes)[len(PROMPT) - 1 :]


def test_the_lens_reads_each_position_that_produced_a_token_and_no_other(result, reference, tiny_llama_path, made):
    output, report, captures = case(result, "lens")
    assert len(output["token_ids"]) == result.stop_at + 1
    assert captures["lens/projections/0"].shape == (result.stop_at + 1, 1)
    expected = guesses_of(reference, tiny_llama_path, made, output["token_ids"])
    assert_guesses_equal(captures["lens/lens/0"], expected)
    assert report["error"] is None


def test_the_lens_reads_each_completion_of_one_prompt(result, reference, tiny_llama_path, made):
    output, _, captures = case(result, "guesses")
    first, second = (completion["token_ids"] for completion in output["completions"])
    assert first != second
    for i, generated in enumerate((first, second)):
        expected = guesses_of(reference, tiny_llama_path, made, generated)
        assert_guesses_equal(captures[f"guesses/lens/{i}"], expected)


def test_a_bound_ends_a_request_that_asked_for_more_tokens_and_ignores_its_end_token(result, expected):
    output, report, _ = case(result, "bound")
    assert output["token_ids"][:-1] == expected[0][: result.bound_at]
    assert output["finish_reason"] == "stop"
    (hit,) = report["bound_hits"]
    assert hit["position"] == len(PROMPT) - 1 + result.bound_at
    assert output["logprobs"][-1] == {str(output["token_ids"][-1]): 0.0}


def test_a_request_that_cannot_be_steered_gets_no_text(result):
    output, report, _ = case(result, "failed")
    assert "not in the vector bank" in report["error"]
    assert (output["text"], output["finish_reason"], len(output["token_ids"])) == ("", "stop", 1)


def test_a_bound_ends_a_request_whose_grammar_does_not_end_there(result, form):
    if form == V2_ASYNC:
        pytest.skip("not run in Triton's interpreter")
    output, report, _ = case(result, "grammar")
    assert (output["text"], output["finish_reason"]) == ("", "stop")
    assert report["bound_hits"][0]["position"] == len(PROMPT) - 1


def test_a_request_after_a_failed_one_is_served_as_the_first(result):
    one, other = case(result, "length")[0], case(result, "again")[0]
    assert difference(one, other) < 1e-4


def test_completions_of_one_prompt_are_counted_each(result):
    output, report, captures = case(result, "two")
    assert [len(completion["token_ids"]) for completion in output["completions"]] == [N_TOKENS, N_TOKENS]
    assert report["steered_generated"] == 2 * (N_TOKENS - 1)
    assert {name for name in captures if "projections" in name} == {"two/projections/0", "two/projections/1"}


@pytest.mark.parametrize("hold", HOLDS)
def test_a_gate_decides_for_each_completion_of_one_prompt(result, gated, reference, tiny_llama_path, made, hold):
    batch, n = result.order.index("several"), len(PROMPT)
    completions = result.batches[batch][HOLDS.index(hold)]["completions"]
    one, other = (completion["token_ids"] for completion in completions)
    assert one != other
    read = STEERED - 1, torch.from_numpy(made.array)
    opened = [
        open_at(reference(tiny_llama_path), PROMPT, tokens, hold, gated[hold].bound, read) for tokens in (one, other)
    ]
    expected = [sum(int(acts[part].sum()) for acts in opened) for part in (slice(n), slice(n, None))]
    assert result.reports[batch][f"two {hold}"]["acted"] == [expected]


def test_requests_that_join_and_leave_at_steps_of_their_own_equal_their_own_runs(run_engine, tiny_llama_path, made):
    specs = [read_by_lens(f"r{i}", made.sha256) if i % 2 else whole(f"r{i}", made.sha256) for i in range(6)]
    alone = [[Req([20 + i, 30, 40 + i], spec.model_dump_json(), 8)] for i, spec in enumerate(specs)]
    moving = [
        Req([20 + i, 30, 40 + i], spec.model_dump_json(), 8, joins_at=2 * i, leaves_at=2 * i + 4 if i == 3 else None)
        for i, spec in enumerate(specs)
    ]
    result = run_engine(Job(tiny_llama_path, [*alone, moving], directions=[made], options=OPTIONS))
    captures = result.captures(len(alone))
    for i in range(len(specs)):
        if i == 3:
            continue
        assert difference(result.batches[-1][i], result.batches[i][0]) < 1e-4
        assert result.reports[-1][f"r{i}"] == result.reports[i][f"r{i}"]
        for name, array in result.captures(i).items():
            np.testing.assert_allclose(captures[name], array, atol=1e-3, err_msg=name)


def test_a_failed_request_that_is_aborted_while_its_step_runs_leaves_no_blocks_behind(
    run_engine, form, reference, tiny_llama_path, made
):
    """Its blocks were computed unsteered, under the hash of a steering that later requests use."""
    ids = list(range(20, 60))  # more than a block
    late = direction(made.array.size, seed=6)
    request = Req(ids, spec_of("k", late.sha256).model_dump_json(), 4, skip_cache=False)
    aborted = [replace(request, leaves_at=1), Req(PROMPT, None, 4)]
    options = OPTIONS | {"block_size": 32}
    job = Job(tiny_llama_path, [aborted, [request], [request]], directions=[made], late={1: [late]}, options=options)
    result = run_engine(job)
    assert (result.batches[0][0] is None) == (form != V1_SYNC)  # a synchronous step is over before the abort
    assert [batch[0]["cached"] for batch in result.batches[1:]] == [0, 32]
    added = torch.from_numpy(late.array) * VALUE
    tokens, logprobs = reference(tiny_llama_path).greedy(ids, 4, {STEERED: lambda stream, _: stream + added})
    for batch in result.batches[1:]:
        assert batch[0]["token_ids"] == tokens
        assert largest_difference(batch[0]["logprobs"], logprobs) < 1e-3


def reasoning_in(reference, prompt, n_tokens, made) -> ReplySelector:
    """The reasoning of a reply that the prompt has opened and that one of its tokens closes halfway."""
    added = torch.from_numpy(made.array) * VALUE

    def push(stream, positions):
        return torch.where((positions >= len(prompt))[:, None], stream + added, stream)

    tokens, _ = reference.greedy(prompt, n_tokens, {STEERED: push})
    end = next(token for i, token in enumerate(tokens) if i > n_tokens // 2 and token not in tokens[:i])
    start = ReplyStart(first=len(prompt), opened=True, begin=0, end=end)
    return ReplySelector(reply=start, select=(ReplyItem(part="thinking", start=2),))


def test_preempted_requests_equal_uninterrupted_ones(run_engine, reference, tiny_llama_path, made):
    """Their gates open where transformers' hidden states are past the bound, at each position once."""
    specs = [whole("r0", made.sha256), *(read_by_lens(f"r{i}", made.sha256) for i in (1, 2)), whole("r3", made.sha256)]
    reasons = reasoning_in(reference(tiny_llama_path), [20, *range(30, 60)], 24, made)
    term = TermSpec(layer=STEERED, direction=made.sha256, value=VALUE, scope=[0, 0], reply=reasons)
    specs[0] = specs[0].model_copy(update={"terms": [term]})
    for i, hold in enumerate(HOLDS, start=1):
        specs[i] = specs[i].model_copy(update={"terms": gated_spec("k", made.sha256, hold, 0.0).terms})
    batch = [Req([20 + i, *range(30, 60)], spec.model_dump_json(), 24) for i, spec in enumerate(specs)]
    roomy = run_engine(Job(tiny_llama_path, [batch], directions=[made], options=OPTIONS))
    tight = OPTIONS | {"block_size": 32, "num_gpu_blocks_override": 7}
    result = run_engine(Job(tiny_llama_path, [batch], directions=[made], options=tight))
    assert result.stats["preemptions"] >= 1
    for i, (one, other) in enumerate(zip(roomy.batches[0], result.batches[0], strict=True)):
        assert difference(one, other) < 1e-3, f"request {i}"
    assert roomy.reports == result.reports
    read = STEERED - 1, torch.from_numpy(made.array)
    for i, hold in enumerate(HOLDS, start=1):
        prompt, tokens = batch[i].token_ids, result.batches[0][i]["token_ids"]
        acts = open_at(reference(tiny_llama_path), prompt, tokens, hold, 0.0, read)
        expected = [int(acts[: len(prompt)].sum()), int(acts[len(prompt) :].sum())]
        assert result.reports[0][f"r{i}"]["acted"] == [expected], hold
    for name, array in roomy.captures(0).items():
        np.testing.assert_allclose(result.captures(0)[name], array, atol=1e-3, err_msg=name)
