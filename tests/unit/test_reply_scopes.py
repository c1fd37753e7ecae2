"""Selectors of a reply that is being generated, over hand-made steps: where they hold is decided by the tokens themselves."""

import numpy as np
import pytest
import torch
from hand_made_steps import D_MODEL, EAST, N_LAYERS, NORTH, SHAPE, digest, small_state, view_of
from trait_core.intervals import Interval
from trait_service.engine.batch import LiveBatch, Step
from trait_service.engine.buffers import VectorBank
from trait_service.engine.capture_rows import CaptureRows
from trait_service.engine.cuda_step import CudaStep
from trait_service.engine.gates import FIRST_SELECTOR_BIT
from trait_service.engine.reply_scopes import HeldPositions
from trait_service.engine.reply_selector import MAX_SELECTORS, ReplyItem, ReplySelector, ReplyStart, selectors_of
from trait_service.engine.requests import LiveRequest, term_arrays
from trait_service.engine.spec import GateSpec, RequestSpec, TermSpec
from trait_service.resolving.landmarks import Markers, reasoning

BEGIN, END, WORD, OTHER = 7, 8, 1, 2
N_PROMPT = 3
TEXTS = {BEGIN: "<think>", END: "</think>", WORD: "a", OTHER: "b"}
PLAIN, OPENING = [WORD] * N_PROMPT, [WORD, WORD, BEGIN]

REPLIES = [
    [BEGIN, WORD, WORD, END, WORD, WORD, WORD],
    [WORD, WORD, END, WORD, WORD],
    [WORD, WORD, WORD, WORD],
    [BEGIN, WORD, WORD],
    [OTHER, BEGIN, WORD, END, WORD, BEGIN, WORD, END, WORD],
    [WORD, BEGIN, WORD, BEGIN, WORD, END, WORD, END, WORD],
    [END, END, WORD, BEGIN, WORD],
    [BEGIN, END, WORD],
]


def start(prompt) -> ReplyStart:
    return ReplyStart(first=len(prompt), opened=prompt[-1] == BEGIN, begin=BEGIN, end=END)


def item(part="response", token=None, *, start=0, step=1, stop=None) -> ReplyItem:
    given = {} if stop is None else {"stop": stop}
    return ReplyItem(part=part, token=token, start=start, step=step, **given)


def selector(prompt, *select, without=()) -> ReplySelector:
    return ReplySelector(reply=start(prompt), select=select, without=without)


def positions_held(one, ids) -> np.ndarray:
    """What the host finds, told of one token after the other, and of all at once."""
    held, at_once = HeldPositions(one), HeldPositions(one)
    for token in ids[one.reply.first :].tolist():
        held.feed([token])
    at_once.feed(ids[one.reply.first :].tolist())
    assert held.below(len(ids)).tolist() == at_once.below(len(ids)).tolist()
    return held.below(len(ids))


def term(reply, layer=1, value=2.0, scope=(0, 0), **fields) -> TermSpec:
    return TermSpec(layer=layer, direction=digest(NORTH), value=value, scope=list(scope), reply=reply, **fields)


def step(state, requests: dict[str, tuple]):
    """One forward pass: request id -> (spec, n_prompt, first position, tokens). Returns what was added on each layer.

    The east of a token's stream is its id.
    """
    tokens = [token for _, _, _, some in requests.values() for token in some]
    padded = torch.tensor([*tokens, 0, 0], dtype=torch.int32)  # as the engine's
    state.prepare(view_of({i: (*told, len(some)) for i, (*told, some) in requests.items()}, padded))
    added = []
    for layer in range(N_LAYERS):
        residual = torch.zeros(len(tokens), D_MODEL)
        residual[:, 0] = torch.tensor(tokens)
        before = residual.clone()
        state.intervene(residual, torch.zeros_like(residual), layer)
        added.append(residual - before)
    end = state.finish()
    if end is not None:
        end.verdict()
    return added


def generated(state, spec, prompt, reply, chunks=((0, N_PROMPT),), layer=1):
    """Positions at which a request is steered: its prompt in chunks, then one token a step."""
    text, acted = [*prompt, *reply], []
    spans = [*chunks, *((at, at + 1) for at in range(chunks[-1][1], len(text)))]
    for begin, end in spans:
        added = step(state, {"r": (spec, len(prompt), begin, text[begin:end])})
        acted += [begin + i for i in range(end - begin) if added[layer][i].any()]
    return acted


def told_by_the_text_so_far(part: str, prompt, reply) -> list[int]:
    """Positions of a part, each by where the part is in the text up to it."""
    texts = [TEXTS[token] for token in (*prompt, *reply)]
    found = []
    for at in range(len(prompt), len(texts)):
        thinking, answer = reasoning(texts[: at + 1], len(prompt), Markers("<think>", "</think>"))
        begin, end = thinking if part == "thinking" else answer
        if begin <= at < end:
            found.append(at)
    return found


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("prompt", [PLAIN, OPENING])
@pytest.mark.parametrize("part", ["thinking", "answer"])
def test_a_part_of_the_reply_is_steered_where_the_text_up_to_each_position_has_it(part, prompt, reply):
    state, one = small_state(), selector(prompt, item(part))
    acted = generated(state, RequestSpec(key="k", terms=[term(one)]), prompt, reply)
    assert acted == told_by_the_text_so_far(part, prompt, reply)
    report = state.collect({"k": []})["reports"]["k"]
    assert (report["acted"], report["steered_generated"]) == (((0, len(acted)),), len(acted))
    held = positions_held(one, np.array([*prompt, *reply]))
    assert np.flatnonzero(held).tolist() == acted


@pytest.mark.parametrize("reply", REPLIES)
def test_of_a_reply_whose_reasoning_the_prompt_opens_every_position_is_as_in_the_whole_text(reply):
    texts = [TEXTS[token] for token in (*OPENING, *reply)]
    for part, span in zip(
        ("thinking", "answer"), reasoning(texts, N_PROMPT, Markers("<think>", "</think>")), strict=True
    ):
        held = positions_held(selector(OPENING, item(part)), np.array([*OPENING, *reply]))
        assert np.flatnonzero(held).tolist() == list(range(*span))


def test_without_an_opening_marker_what_comes_before_the_closing_one_counts_as_answer_while_it_is_generated():
    """The whole text says otherwise, but nobody knows it yet."""
    reply = [WORD, WORD, END, WORD]
    assert reasoning([TEXTS[token] for token in (*PLAIN, *reply)], 3, Markers("<think>", "</think>")) == (
        (3, 5),
        (6, 7),
    )
    held = positions_held(selector(PLAIN, item("answer")), np.array([*PLAIN, *reply]))
    assert np.flatnonzero(held).tolist() == [3, 4, 6]


@pytest.mark.parametrize(
    ("select", "without", "positions"),
    [
        ([item("thinking", stop=2)], (), [4, 5]),
        ([item("thinking", start=1, step=2)], (), [5, 7]),
        ([item("answer", start=1)], (), [11, 12]),
        ([item("thinking")], [item("thinking", stop=3)], [7, 8]),
        ([item("thinking", start=4), item(stop=3)], (), [3, 4, 5, 8]),  # a union counts a position once
        ([item(token=END)], (), [9]),
        ([item(token=OTHER)], [item("answer")], [6]),
        ([item()], [item("thinking"), item("answer", start=2)], [3, 9, 10, 11]),
    ],
)
def test_slices_unions_and_tokens_count_from_where_the_part_begins(select, without, positions):
    reply = [BEGIN, WORD, WORD, OTHER, WORD, WORD, END, OTHER, WORD, WORD]
    one = selector(PLAIN, *select, without=tuple(without))
    assert generated(small_state(), RequestSpec(key="k", terms=[term(one)]), PLAIN, reply) == positions
    assert np.flatnonzero(positions_held(one, np.array([*PLAIN, *reply]))).tolist() == positions


REPLY = [BEGIN, WORD, WORD, END, WORD, OTHER]
THINKING, ANSWER = selector(PLAIN, item("thinking")), selector(PLAIN, item("answer"))


def test_a_term_acts_on_its_scope_in_the_prompt_and_on_its_selector_in_the_reply():
    state = small_state()
    both = RequestSpec(key="k", terms=[term(THINKING, scope=(1, 2)), term(ANSWER, layer=2)])
    assert generated(state, both, PLAIN, REPLY) == [1, 4, 5]
    report = state.collect({"k": []})["reports"]["k"]
    assert report["acted"] == ((1, 2), (0, 2))
    assert (report["steered_prompt"], report["steered_generated"]) == (1, 4)


def test_prompt_positions_from_the_cache_are_counted_and_the_reply_goes_on_from_there():
    state = small_state()
    spec = RequestSpec(key="k", terms=[term(THINKING, scope=(0, 2))])
    assert generated(state, spec, PLAIN, REPLY, chunks=((2, 3),)) == [4, 5]
    report = state.collect({"k": []})["reports"]["k"]
    assert (report["acted"], report["steered_cached"]) == (((2, 2),), 2)


@pytest.mark.parametrize(("hold", "acts"), [("token", [5]), ("latch", [5, 6])])
def test_a_term_with_a_gate_acts_where_both_hold(hold, acts):
    """The gate reads the token's id."""
    state = small_state()
    gate = GateSpec(layer=0, direction=digest(EAST), below=WORD + 0.5, hold=hold)
    if hold == "latch":
        gate = gate.model_copy(update={"below": None, "above": OTHER - 0.5})
    prompt, reply = [END, END, END], [BEGIN, OTHER, WORD, OTHER, END, WORD]
    if hold == "latch":
        prompt, reply = PLAIN, [WORD, WORD, OTHER, WORD]
        gate = gate.model_copy(update={"below": None, "above": OTHER - 0.5})
    one = ReplySelector(
        reply=ReplyStart(first=3, begin=BEGIN, end=END), select=(item("thinking" if hold == "token" else "answer"),)
    )
    spec = RequestSpec(key="k", terms=[term(one, when=gate)])
    assert generated(state, spec, prompt, reply) == acts
    assert state.collect({"k": []})["reports"]["k"]["acted"] == ((0, len(acts)),)


def test_what_a_reply_has_shown_outlives_preemption_whatever_comes_back_from_the_prefix_cache():
    for resumed_at in (0, 2, 4, 6):
        state, spec = small_state(), RequestSpec(key="k", terms=[term(THINKING)])
        text = [*PLAIN, *REPLY]
        assert generated(state, spec, PLAIN, REPLY[:3]) == [4, 5]
        step(state, {"other": (None, 1, 0, [WORD])})
        added = step(state, {"other": (None, 1, 1, [WORD]), "r": (spec, 3, resumed_at, text[resumed_at:7])})
        assert [resumed_at - 1 + i for i, row in enumerate(added[1]) if row.any()] == [
            at for at in (4, 5) if at >= resumed_at
        ]
        assert not step(state, {"r": (spec, 3, 7, [WORD])})[1].any()
        assert state.collect({"k": []})["reports"]["k"]["acted"] == ((0, 2),)


def test_tokens_that_a_preemption_has_thrown_away_are_forgotten():
    state, spec = small_state(), RequestSpec(key="k", terms=[term(THINKING)])
    assert generated(state, spec, PLAIN, [BEGIN, WORD, END, WORD]) == [4]
    added = step(state, {"r": (spec, 3, 0, [*PLAIN, BEGIN, WORD, WORD, WORD])})
    assert [bool(row.any()) for row in added[1]] == [False] * 4 + [True] * 3


def test_a_reply_that_follows_in_the_row_of_another_begins_anew_and_neighbours_have_their_own():
    state = small_state()
    one, two = (RequestSpec(key=key, terms=[term(THINKING)]) for key in "ab")
    plain = (None, 1, 0, [BEGIN, END])
    added = step(state, {"p": plain, "a": (one, 3, 0, [*PLAIN, BEGIN, WORD]), "b": (two, 3, 0, [*PLAIN, WORD, WORD])})
    assert [i for i, row in enumerate(added[1]) if row.any()] == [6]
    state.remove("a")
    three = RequestSpec(key="c", terms=[term(THINKING)])
    added = step(state, {"b": (two, 3, 5, [BEGIN, WORD]), "c": (three, 3, 0, [*PLAIN, WORD, WORD])})
    assert [i for i, row in enumerate(added[1]) if row.any()] == [1]


def test_many_requests_at_once_each_keep_their_markers():
    state = small_state(max_requests=32, max_tokens=256)
    specs = [RequestSpec(key=f"k{i}", terms=[term(THINKING)]) for i in range(20)]
    step(state, {f"r{i}": (spec, 3, 0, [*PLAIN, BEGIN if i % 2 else WORD]) for i, spec in enumerate(specs)})
    added = step(state, {f"r{i}": (spec, 3, 4, [WORD]) for i, spec in enumerate(specs)})
    assert [bool(row.any()) for row in added[1]] == [False, True] * 10


def test_a_request_fails_that_selects_too_much_or_runs_where_its_tokens_are_not_known():
    many = [term(selector(PLAIN, item(token=i)), layer=i % 3) for i in range(MAX_SELECTORS + 1)]
    strangers = [term(THINKING), term(selector([WORD, WORD], item("answer")))]
    for state, terms, reason in [
        (small_state(), many, "8 distinct selectors of a reply in one request; at most 7"),
        (small_state(), strangers, "of 2 different replies"),
        (small_state(sees_all_layers=False), [term(THINKING)], "not supported with pipeline parallelism"),
    ]:
        step(state, {"r": (RequestSpec(key="k", terms=terms), 3, 0, PLAIN)})
        assert reason in state.collect({"k": []})["reports"]["k"]["error"]


def test_on_cuda_the_words_are_set_before_the_first_layer_and_the_row_says_which_bit_a_term_reads():
    cpu = torch.device("cpu")
    bank, pools = VectorBank(2, D_MODEL, cpu), CaptureRows(N_LAYERS, 1, D_MODEL, cpu)
    bank.put(digest(NORTH), NORTH.tobytes())
    sizes = {"n_layers": N_LAYERS, "max_requests": 2, "max_tokens": 8, "terms_per_layer": 2}
    side = CudaStep(bank, pools, **sizes, device=cpu)
    found = term_arrays([term(THINKING), term(ANSWER)], 3, 0, SHAPE.sites, 2, bank)
    request = LiveRequest(RequestSpec(key="k", terms=[term(THINKING)]), 3, terms=found.terms, selectors=found.selectors)
    request.marker_row = side.replies.take()
    batch = LiveBatch(2, [(1, 1, request)])
    side.regroup(batch)
    tokens = torch.tensor([WORD, BEGIN, WORD, END, WORD])
    side.prepare(Step(np.array([9, 3]), np.array([1, 4]), np.array([0, 1]), 5, tokens), batch.computed_to)
    thinking, answer = (1 << FIRST_SELECTOR_BIT + i for i in range(2))
    assert side._buffers.open_gates[:5].tolist() == [0, 0, thinking, 0, answer]
    listed = side.active.tensor[1:5].tolist()
    assert [entry[2] for entry in listed] == [3, 4, 5, 6]
    assert all(entry[3] & 4 for entry in listed)
    layout = side.table.layout
    words = side.table.tensor[1, layout.terms :].view(2, N_LAYERS, 6)[:, 1, 1]
    assert [int(word) >> 8 & 15 for word in words] == [FIRST_SELECTOR_BIT + 1, FIRST_SELECTOR_BIT + 2]
    assert [int(word) >> 12 for word in words] == [1, 1]


def test_a_selector_touches_no_position_before_its_reply():
    assert THINKING.interval == Interval(3, 2**31 - 1)
    assert selectors_of({}).items.size == 0
