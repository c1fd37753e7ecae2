"""Gates over hand-made steps: where they are open, what acts there, and what is reported."""

import pytest
import torch
from hand_made_steps import D_MODEL, EAST, N_LAYERS, NORTH, digest, small_state, view_of
from pydantic import ValidationError
from trait_service.engine.gates import MAX_GATES
from trait_service.engine.spec import GateSpec, RequestSpec, TermSpec
from trait_service.engine.state import SteeringState


@pytest.fixture
def state() -> SteeringState:
    return small_state()


def gate(layer=0, hold="token", n_prompt=None, **bound) -> GateSpec:
    """On the east of a stream."""
    bound = bound or {"above": 0.5}
    return GateSpec(layer=layer, direction=digest(EAST), hold=hold, n_prompt=n_prompt, **bound)


def term(when=None, layer=1, value=2.0, direction=NORTH, **fields) -> TermSpec:
    return TermSpec(layer=layer, direction=digest(direction), value=value, when=when, **fields)


def spec(*terms, key="k") -> RequestSpec:
    return RequestSpec(key=key, terms=list(terms))


def step(state, requests: dict[str, tuple]):
    """One forward pass: request id -> (spec, n_prompt, n_computed, the east of each token's stream on every layer).

    Returns what was added on each layer.
    """
    state.prepare(view_of({i: (*told, len(values)) for i, (*told, values) in requests.items()}))
    east = torch.tensor([value for _, _, _, values in requests.values() for value in values], dtype=torch.float32)
    added = []
    for layer in range(N_LAYERS):
        residual = torch.zeros(len(east), D_MODEL)
        residual[:, 0] = east / 4
        hidden = residual * 3  # the stream is the sum
        before = residual.clone()
        state.intervene(residual, hidden, layer)
        added.append(residual - before)
    end = state.finish()
    if end is not None:
        end.verdict()
    return added


def report(state, key="k", lengths=()):
    return state.collect({key: list(lengths)})["reports"][key]


STREAM = [0.0, 1.0, 0.4, 0.6, 0.5, 9.0, -3.0, 1.0]
OPEN = [1, 3, 5, 7]


@pytest.mark.parametrize(("bound", "open_at"), [({"above": 0.5}, OPEN), ({"below": 0.5}, [0, 2, 6])])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_term_acts_where_the_positions_own_projection_is_past_the_bound_whatever_the_chunks(bound, open_at, layer):
    state, acted = small_state(), []
    one = spec(term(gate(layer, **bound)), term(gate(layer, **bound), layer=2, scope=[2, 8]))
    for start, stop in [(0, 3), (3, 4), (4, 6), (6, 7), (7, 8)]:
        added = step(state, {"r": (one, 6, start, STREAM[start:stop])})
        assert not added[0].any()
        acted += [start + i for i in range(stop - start) if added[1][i].any()]
        assert [bool(row.any()) for row in added[2]] == [at in open_at and at >= 2 for at in range(start, stop)]
    assert acted == open_at
    found = report(state)
    late = [at for at in open_at if at >= 2]
    assert found["acted"] == tuple(
        (sum(at < 6 for at in where), sum(at >= 6 for at in where)) for where in (open_at, late)
    )
    assert (found["steered_prompt"], found["steered_generated"]) == found["acted"][0]


def test_closed_terms_and_neighbours_stay_bit_equal_and_each_request_has_its_own_gate(state):
    above, below = spec(term(gate(above=0.5)), key="a"), spec(term(gate(below=0.5), value=3.0), key="b")
    added = step(
        state, {"a": (above, 2, 0, [1.0, 0.0]), "plain": (None, 2, 0, [1.0, 0.0]), "b": (below, 2, 0, [1.0, 0.0])}
    )
    assert added[1][:, 1].tolist() == [2.0, 0.0, 0.0, 0.0, 0.0, 3.0]


def test_a_gate_on_the_steered_layer_is_read_before_any_term_of_that_layer(state):
    """The first term would push the second one's gate open."""
    push = term(value=5.0, direction=EAST)
    added = step(state, {"r": (spec(push, term(gate(1))), 2, 0, [0.0, 1.0])})
    assert added[1].tolist() == [[5.0, 0, 0, 0], [5.0, 2.0, 0, 0]]
    found = report(state)
    assert found["acted"] == ((2, 0), (1, 0))
    assert found["steered_prompt"] == 2


def test_terms_with_and_without_a_gate_and_every_kind_of_operation_act_side_by_side(state):
    terms = [term(gate(), operation="set", value=7.0), term(), term(gate(above=2.0), value=1.0)]
    added = step(state, {"r": (spec(*terms), 3, 0, [0.0, 1.0, 3.0])})
    assert added[1][:, 1].tolist() == [2.0, 9.0, 10.0]
    assert report(state)["acted"] == ((2, 0), (3, 0), (1, 0))


def test_a_decoding_batch_whose_sums_are_kept_reads_its_gates_at_each_step(state):
    one, two = spec(term(gate()), key="a"), spec(term(gate(), value=3.0), key="b")
    step(state, {"a": (one, 1, 0, [0.0]), "b": (two, 1, 0, [0.0])})
    for at, (east, other) in enumerate([(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1.0, 1.0)], start=1):
        added = step(state, {"a": (one, 1, at, [east]), "b": (two, 1, at, [other])})
        assert added[1][:, 1].tolist() == [2.0 * east, 3.0 * other]
    assert [report(state, key)["acted"] for key in "ab"] == [((0, 3),), ((0, 3),)]


def test_a_preempted_request_counts_each_position_once(state):
    one = spec(term(gate()))
    step(state, {"r": (one, 4, 0, STREAM[:4])})
    step(state, {"r": (one, 4, 4, STREAM[4:5])})
    step(state, {"other": (None, 1, 0, [0.0])})
    step(state, {"r": (one, 4, 0, STREAM[:6])})
    step(state, {"r": (one, 4, 6, STREAM[6:7])})
    assert report(state)["acted"] == ((2, 1),)


def test_what_a_gate_decided_at_cached_positions_is_not_counted_and_terms_without_one_are(state):
    step(state, {"r": (spec(term(gate()), term(layer=2)), 6, 4, STREAM[4:6])})
    found = report(state)
    assert found["acted"] == ((1, 0), (6, 0))
    assert (found["steered_prompt"], found["steered_cached"]) == (6, 4)
    step(state, {"g": (spec(term(gate()), key="g"), 6, 4, STREAM[4:6])})
    found = report(state, "g")
    assert (found["steered_prompt"], found["steered_cached"]) == (1, 0)


def test_positions_past_the_end_of_the_text_do_not_count():
    state = small_state(asynchronous=True)
    one = spec(term(gate()))
    step(state, {"r": (one, 4, 0, STREAM[:4])})
    for at in (4, 5, 6, 7):
        step(state, {"r": (one, 4, at, STREAM[at : at + 1])})
    assert report(state, lengths=[4])["acted"] == ((2, 1),)  # 4 tokens: positions 4, 5 and 6 are part of the text


CHUNKS = [[(0, 8)], [(0, 3), (3, 6), (6, 7), (7, 8)], [(0, 1), (1, 2), (2, 6), (6, 7), (7, 8)]]


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize(
    ("bound", "first"),
    [({"above": 0.5}, 1), ({"above": 0.9}, 1), ({"below": -1.0}, 6), ({"above": 9.5}, 8)],
)
def test_a_latch_is_open_from_the_first_position_past_the_bound_on(chunks, bound, first):
    state, acted = small_state(), []
    one = spec(term(gate(hold="latch", **bound)), term(gate(hold="latch", **bound), layer=2, scope="response[:]"))
    for start, stop in chunks:
        added = step(state, {"plain": (None, 1, 0, [99.0, -99.0]), "r": (one, 6, start, STREAM[start:stop])})
        acted += [start + i for i, row in enumerate(added[1][2:]) if row.any()]
        late = [start + i for i, row in enumerate(added[2][2:]) if row.any()]
        assert late == [at for at in range(max(first, 6), 8) if start <= at < stop]
    assert acted == list(range(first, 8))
    found = report(state)["acted"]
    assert found == ((max(6 - first, 0), min(8 - first, 2)), (0, min(8 - first, 2)))


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize(
    ("bound", "opens"),
    [({"above": 1.9}, True), ({"above": 2.0}, False), ({"below": 2.0}, True), ({"below": 1.9}, False)],
)
def test_the_mean_over_the_prompt_decides_from_the_last_prompt_position_on(chunks, bound, opens):
    """It is 11.5 / 6; what is generated does not count."""
    state, acted = small_state(), []
    for start, stop in chunks:
        one = spec(term(gate(hold="prompt", **bound)))
        added = step(state, {"plain": (None, 1, 0, [99.0, -99.0]), "r": (one, 6, start, STREAM[start:stop])})
        acted += [start + i for i, row in enumerate(added[1][2:]) if row.any()]
    assert acted == ([5, 6, 7] if opens else [])
    assert report(state)["acted"] == ((1, 2) if opens else (0, 0),)


def test_the_prompt_inside_a_given_text_ends_where_the_gate_says(state):
    one = spec(term(gate(hold="prompt", n_prompt=4, above=0.49)))
    added = step(state, {"r": (one, 8, 0, STREAM)})
    assert [bool(row.any()) for row in added[1]] == [False] * 3 + [True] * 5


def test_what_gates_hold_belongs_to_one_request_and_begins_anew_when_it_is_computed_again(state):
    """Latches of two requests side by side; one is preempted, and a third takes the row of one that has left."""
    latch = {"hold": "latch", "above": 0.5}
    one, two = spec(term(gate(**latch)), key="a"), spec(term(gate(**latch)), key="b")
    added = step(state, {"a": (one, 2, 0, [1.0, 0.0]), "b": (two, 2, 0, [0.0, 0.0])})
    assert [bool(row.any()) for row in added[1]] == [True, True, False, False]
    added = step(state, {"b": (two, 2, 2, [0.0])})
    assert not added[1].any()
    added = step(state, {"b": (two, 2, 3, [0.0]), "a": (one, 2, 0, [0.0, 0.0, 1.0])})
    assert [bool(row.any()) for row in added[1]] == [False, False, False, True]
    state.remove("a")
    added = step(state, {"b": (two, 2, 4, [1.0]), "c": (spec(term(gate(**latch)), key="c"), 2, 0, [0.0, 0.0])})
    assert [bool(row.any()) for row in added[1]] == [True, False, False]


def test_gates_that_hold_different_things_share_a_slot_across_requests(state):
    kinds = {hold: spec(term(gate(hold=hold)), key=hold) for hold in ("token", "latch", "prompt")}
    added = step(state, {hold: (asked, 3, 0, [0.0, 1.0, 0.0]) for hold, asked in kinds.items()})
    acts = added[1].any(dim=1).view(3, 3).tolist()
    assert acts == [[False, True, False], [False, True, True], [False, False, False]]


def test_a_projection_that_is_not_a_number_opens_no_gate(state):
    both = spec(term(gate(above=-1e30)), term(gate(below=1e30), layer=2))
    added = step(state, {"r": (both, 1, 0, [float("nan")])})
    assert report(state)["acted"] == ((0, 0),) * 2
    assert not added[1][:, 1:].any()


def test_a_gate_that_cannot_be_read_fails_its_request():
    many = spec(*(term(gate(above=float(i)), layer=i % 3) for i in range(MAX_GATES + 1)))
    unknown = spec(term(GateSpec(layer=0, direction="0" * 64, above=1.0)))
    one = spec(term(gate()))
    cached = small_state()
    for hold in ("latch", "prompt"):
        step(cached, {"r": (spec(term(gate(hold=hold)), key=hold), 6, 4, STREAM[4:6])})
        assert f"hold '{hold}' needs every prompt position" in report(cached, hold)["error"]
        cached.remove("r")
    for state, asked, reason in [
        (small_state(), many, "9 distinct gates in one request; at most 8"),
        (small_state(), unknown, "not in the vector bank"),
        (small_state(sees_all_layers=False), one, "not supported with pipeline parallelism"),
    ]:
        step(state, {"r": (asked, 1, 0, [1.0])})
        assert reason in report(state)["error"]


def test_a_spec_refuses_a_late_gate_and_one_without_exactly_one_bound():
    with pytest.raises(ValidationError, match="is too late for resid_post of layer 1"):
        term(gate(2))
    for hold in ("latch", "prompt"):
        with pytest.raises(ValidationError, match="is too late for resid_post of layer 1"):
            term(gate(1, hold=hold))
    for hold, layer in (("token", 1), ("latch", 0)):
        with pytest.raises(ValidationError, match="is too late for mlp_out of layer 1"):
            term(gate(layer, hold=hold), at="mlp_out")
    for bounds in ({"above": 1.0, "below": 2.0}, {"above": None}):
        with pytest.raises(ValidationError, match="above or below"):
            gate(**bounds)
