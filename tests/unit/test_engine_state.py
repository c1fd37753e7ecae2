"""The engine side's state over hand-made steps: scopes, pools, rows, failures, and idle batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hand_made_steps import digest, view_of
from safetensors.torch import load
from trait_core.intervals import UNBOUNDED
from trait_service.engine.capture_rows import CaptureRows
from trait_service.engine.engine_shape import EngineShape
from trait_service.engine.settings import EngineSettings
from trait_service.engine.spec import CaptureSpec, MonitorColumn, MonitorSpec, RequestSpec, TermSpec
from trait_service.engine.state import SteeringState
from trait_service.engine.step_end import EndOfStep, StepVerdict

N_LAYERS, D_MODEL = 3, 4
EAST = np.eye(D_MODEL, dtype=np.float32)[0]
SHAPE = EngineShape(N_LAYERS, D_MODEL, max_requests=2, max_tokens=32, device=torch.device("cpu"))


@pytest.fixture
def state() -> SteeringState:
    made = SteeringState(EngineSettings(bank_rows=2, terms_per_layer=2, capture_rows=3), SHAPE)
    made.bank.put(digest(EAST), EAST.tobytes())
    return made


def steer_spec(key="k", layer=1, value=2.0, scope="all", capture=None) -> RequestSpec:
    return RequestSpec(
        key=key, terms=[TermSpec(layer=layer, direction=digest(EAST), value=value, scope=scope)], capture=capture
    )


def capture_spec(key="k", positions=("all[:]",), layers=None, **kw) -> RequestSpec:
    return RequestSpec(key=key, capture=CaptureSpec(positions=list(positions), layers=layers, **kw))


def step(state, requests: dict[str, tuple], *, judged=True):
    """One forward pass: request id -> (spec, n_prompt, n_computed, n_scheduled). Returns each layer's added delta.

    A step that is not judged has started and may still run on the device.

    Each token's stream is its absolute position in every column of the residual, and 1 in the other half.
    """
    state.prepare(view_of(requests))
    positions = torch.cat([torch.arange(c, c + n) for _, _, c, n in requests.values()]).float()
    deltas = []
    for layer in range(N_LAYERS):
        residual = positions[:, None].repeat(1, D_MODEL)
        before = residual.clone()
        state.intervene(residual, torch.ones_like(residual), layer)
        deltas.append(residual - before)
    ENDS[id(state)] = state.finish()
    if judged:
        verdict(state)
    return deltas


ENDS: dict[int, EndOfStep | None] = {}


def verdict(state) -> StepVerdict:
    """Which requests the last step failed or ended."""
    end = ENDS[id(state)]
    return StepVerdict() if end is None else end.verdict()


def test_only_the_steered_layer_and_direction_change_and_neighbours_are_bit_equal(state):
    deltas = step(state, {"plain": (None, 3, 0, 3), "steered": (steer_spec(), 2, 0, 2)})
    assert not deltas[0].any()
    assert not deltas[2].any()
    assert not deltas[1][:3].any()
    torch.testing.assert_close(deltas[1][3:], torch.tensor([[2.0, 0, 0, 0]] * 2))


@pytest.mark.parametrize(
    ("scope", "steered"),
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        ("prompt", [0, 1, 2, 3]),
        ("generated", [3, 4, 5]),
        ("last_prompt", [3]),
        ([1, 5], [1, 2, 3, 4]),
        ("prompt[-2:]", [2, 3]),
        ("response[:1]", [4]),
        ("response[1:]", [5]),
        ("all[::3]", [0, 3]),
        ("all[1::2]", [1, 3, 5]),
        ("prompt[:1], response[1::4]", [0, 5]),
        ("prompt[:2], all[1:3]", [0, 1, 2]),
        ("all[:] except all[1:5]", [0, 5]),
        ("all[:] except all[::2]", [1, 3, 5]),
    ],
)
def test_scopes_hold_on_absolute_positions_whatever_the_chunks(state, scope, steered):
    seen = []
    for start, n in [(0, 3), (3, 1), (4, 1), (5, 1)]:
        delta = step(state, {"r": (steer_spec(scope=scope), 4, start, n)})[1]
        seen += [start + i for i in range(n) if delta[i].any()]
    assert seen == steered
    report = state.collect({"k": []})["reports"]["k"]
    assert report["steered_prompt"] == len([p for p in steered if p < 4])
    assert report["steered_generated"] == len([p for p in steered if p >= 4])


def test_what_a_decoding_batch_adds_is_kept_and_made_anew_when_its_tokens_move(state):
    """The third and fourth step stand on the tokens of the second; then a neighbour comes first and all places move."""
    north = np.eye(D_MODEL, dtype=np.float32)[1]
    state.bank.put(digest(north), north.tobytes())
    one = steer_spec("one", value=2.0)
    two = RequestSpec(key="two", terms=[TermSpec(layer=1, direction=digest(north), value=3.0)])
    added = torch.tensor([[2.0, 0, 0, 0], [0, 3.0, 0, 0]])
    step(state, {"one": (one, 2, 0, 2), "two": (two, 1, 0, 1)})
    for at in (2, 3, 4):
        torch.testing.assert_close(step(state, {"one": (one, 2, at, 1), "two": (two, 1, at, 1)})[1], added)
    for at in (5, 6, 7):
        deltas = step(state, {"plain": (None, 9, at, 1), "two": (two, 1, at, 1), "one": (one, 2, at, 1)})[1]
        torch.testing.assert_close(deltas, torch.stack([torch.zeros(D_MODEL), added[1], added[0]]))
    chunk = step(state, {"two": (two, 1, 8, 1), "one": (one, 2, 8, 3)})[1]
    torch.testing.assert_close(chunk, torch.stack([added[1], *[added[0]] * 3]))


def test_a_preempted_request_is_steered_again_and_each_position_is_counted_once(state):
    spec = steer_spec(capture=CaptureSpec(positions=["all[:]"]))
    step(state, {"r": (spec, 3, 0, 3)})
    step(state, {"r": (spec, 3, 3, 1)})
    step(state, {"other": (None, 1, 0, 1)})  # preempted: not in this batch
    delta = step(state, {"other": (None, 1, 1, 1), "r": (spec, 3, 0, 4)})[1]  # computed anew, from the start
    assert delta[1:].any(dim=1).all()
    step(state, {"r": (spec, 3, 4, 1)})
    collected = state.collect({"k": []})
    assert (collected["reports"]["k"]["steered_prompt"], collected["reports"]["k"]["steered_generated"]) == (3, 2)
    captures = load(collected["captures"])
    assert captures["k/count"].tolist() == [5]
    # residual = position, other half = 1: the mean over positions 0..4 is 2 + 1; steering adds 2 in column 0.
    torch.testing.assert_close(captures["k/mean"][0, 0], torch.full((4,), 3.0))
    torch.testing.assert_close(captures["k/mean"][0, 1], torch.tensor([5.0, 3.0, 3.0, 3.0]))


def test_pools_read_the_positions_they_name_on_the_layers_asked_for(state):
    spec = capture_spec(positions=("prompt[-1]", "response[:2]"), layers=[2, 0])
    for start, n in [(0, 4), (4, 1), (5, 1), (6, 1)]:
        step(state, {"r": (spec, 4, start, n)})
    captures = load(state.collect({"k": []})["captures"])
    assert captures["k/mean"].shape == (2, 2, D_MODEL)
    assert captures["k/count"].tolist() == [1, 2]
    torch.testing.assert_close(captures["k/mean"][:, 0, 0], torch.tensor([4.0, 5.5]))
    torch.testing.assert_close(captures["k/norm"][:, 1], torch.tensor([8.0, 11.0]))  # norm of (p + 1) in 4 columns


def test_a_pool_of_several_intervals_is_the_mean_over_all_of_them_whatever_is_computed_twice():
    positions = ("all[::2]", "prompt[:1], response[1::2]", "all[:] except all[1:5]", "prompt[1:3], all[2:4]")
    held = [[0, 2, 4, 6], [0, 5], [0, 5, 6], [1, 2, 3]]
    for asynchronous in (False, True):
        state = SteeringState(EngineSettings(capture_rows=4), replace(SHAPE, asynchronous=asynchronous))
        for start, n in [(0, 2), (2, 2), (4, 1), (0, 6), (6, 1)]:  # positions 0..6; 4, 5 and 6 are generated
            step(state, {"plain": (None, 1, 0, 1), "r": (capture_spec(positions=positions), 4, start, n)})
        captures = load(state.collect({"k": [4]})["captures"])
        assert captures["k/count"].tolist() == [len(each) for each in held]
        means = torch.tensor([sum(each) / len(each) + 1 for each in held])
        torch.testing.assert_close(captures["k/mean"][:, 1], means[:, None].repeat(1, D_MODEL))


def test_terms_on_overlapping_intervals_of_one_scope_act_once_and_count_as_intervals(state):
    spec = steer_spec(scope="prompt[:3], all[1:4], response[1:]")
    delta = step(state, {"r": (spec, 4, 0, 6)})[1]
    torch.testing.assert_close(delta[:, 0], torch.tensor([2.0, 2.0, 2.0, 2.0, 0.0, 2.0]))
    many = steer_spec("many", scope="prompt[0], prompt[2], response[0]")
    step(state, {"m": (many, 4, 0, 4)})
    reports = state.collect({"k": [], "many": []})["reports"]
    assert (reports["k"]["steered_prompt"], reports["k"]["steered_generated"]) == (4, 1)
    assert "3 terms act on layer 1, each interval of a scope counted; at most 2" in reports["many"]["error"]


def test_under_asynchronous_scheduling_the_newest_generated_position_counts_only_below_the_limit():
    """The prompt in chunks, a preemption that computes generated positions again, and the one position too many."""
    state = SteeringState(EngineSettings(capture_rows=4), replace(SHAPE, asynchronous=True))
    pools = state.pools
    spec = capture_spec(positions=("all[:]", "prompt[:]", "response[1:]"))
    for start, n in [(0, 2), (2, 2), (4, 1), (0, 6), (6, 1)]:  # positions 0..6; 4, 5 and 6 are generated
        step(state, {"plain": (None, 1, 0, 1), "r": (spec, 4, start, n)})
    rows = [0, 1, 2]
    for limit, counts, means in [(UNBOUNDED, [7, 4, 2], [4.0, 2.5, 6.5]), (6, [6, 4, 1], [3.5, 2.5, 6.0])]:
        read = pools.read(rows, [0, 2]).means(limit)
        assert read["count"].tolist() == counts
        assert read["mean"].shape == (3, 2, D_MODEL)
        for layer in (0, 1):
            torch.testing.assert_close(read["mean"][:, layer], torch.tensor(means)[:, None].repeat(1, D_MODEL))
            torch.testing.assert_close(read["norm"][:, layer], 2 * torch.tensor(means))
    state.remove("r")
    assert pools.take(4) == [0, 1, 2, 3]
    assert not pools.read([0, 1, 2, 3], [0, 1, 2]).means(UNBOUNDED)["mean"].any()


def test_a_value_past_the_limit_that_is_not_finite_does_not_reach_a_mean():
    """The position too many may be anything, since its token is no part of the reply."""
    pools = CaptureRows(1, 1, D_MODEL, torch.device("cpu"), deferred=True)
    (row,) = pools.take(1)
    pools.sums.fill_(6.0)
    assert pools.last is not None
    pools.last.fill_(torch.nan)
    pools.count(np.array([row]), np.array([3]))
    pools.defer(np.array([row]), np.array([9]))
    read = pools.read([row], [0]).means(limit=9)
    assert (read["count"].tolist(), read["mean"][0, 0].tolist()) == ([2], [3.0] * D_MODEL)


def test_a_given_text_is_split_where_its_response_begins(state):
    spec = capture_spec(positions=("prompt[:]", "response[:]"), n_prompt=2, n_total=5)
    step(state, {"r": (spec, 5, 0, 5)})
    assert load(state.collect({"k": []})["captures"])["k/count"].tolist() == [2, 3]


def test_positions_read_from_the_prefix_cache_fail_the_capture(state):
    step(state, {"r": (capture_spec(), 8, 4, 4)})
    assert "prefix cache" in state.collect({"k": []})["reports"]["k"]["error"]
    assert state.stats()["capture_rows_free"] == 3


def test_a_request_that_cannot_be_steered_is_marked_and_leaves_its_neighbour_alone(state):
    unknown = RequestSpec(key="u", terms=[TermSpec(layer=1, direction="0" * 64, value=1.0)])
    three = RequestSpec(key="t", terms=[TermSpec(layer=1, direction=digest(EAST), value=1.0)] * 3)
    delta = step(state, {"u": (unknown, 1, 0, 1), "t": (three, 1, 0, 1)})[1]
    assert not delta.any()
    assert verdict(state) == StepVerdict(failed=["u", "t"])
    reports = state.collect({"u": [], "t": []})["reports"]
    assert "not in the vector bank" in reports["u"]["error"]
    assert "3 terms act on layer 1, each interval of a scope counted; at most 2" in reports["t"]["error"]


def test_rows_and_pools_come_back_however_a_request_ends(state):
    for i in range(20):
        spec = steer_spec(key=f"k{i}", layer=i % 3, capture=CaptureSpec(positions=["all[:]", "prompt[:]"]))
        step(state, {f"r{i}": (spec, 2, 0, 2)})
        if i % 2:
            state.collect({f"k{i}": []})
        state.remove(f"r{i}")
    stats = state.stats()
    assert (stats["live_requests"], stats["rows_used"], stats["capture_rows_free"]) == (0, 0, 3)


def test_results_that_nobody_fetches_do_not_pile_up():
    state = SteeringState(EngineSettings(max_results_waiting=2), SHAPE)
    for i in range(5):
        step(state, {f"r{i}": (capture_spec(key=f"k{i}"), 2, 0, 2)})
        state.remove(f"r{i}")
    assert (state.stats()["reports_waiting"], state.stats()["captures_waiting"]) == (2, 2)


def test_an_idle_batch_after_a_steered_one_is_untouched(state):
    step(state, {"r": (steer_spec(), 2, 0, 2)})
    state.remove("r")
    assert not any(delta.any() for delta in step(state, {"p": (None, 2, 0, 2)}))
    assert state.idle


def test_terms_on_one_layer_act_in_order(state):
    terms = [
        TermSpec(layer=0, direction=digest(EAST), operation="ablate"),
        TermSpec(layer=0, direction=digest(EAST), value=3.0),
    ]
    delta = step(state, {"r": (RequestSpec(key="k", terms=terms), 1, 5, 1)})[0]
    # The stream is 5 + 1 along the direction: ablated to 0, then moved to 3.
    torch.testing.assert_close(delta[0], torch.tensor([-3.0, 0, 0, 0]))


def test_the_bank_refuses_what_does_not_fit(state):
    north = np.eye(D_MODEL, dtype=np.float32)[1]
    state.bank.put(digest(north), north.tobytes())
    third = np.eye(D_MODEL, dtype=np.float32)[2]
    with pytest.raises(Exception, match="full: 2 directions"):
        state.bank.put(digest(third), third.tobytes())
    state.bank.drop(digest(north))
    state.bank.put(digest(third), third.tobytes())
    with pytest.raises(Exception, match="does not fit d_model 4"):
        state.bank.put("f" * 64, third[:2].tobytes())
    with pytest.raises(Exception, match="not finite"):
        state.bank.put("e" * 64, np.full(4, np.nan, dtype=np.float32).tobytes())


def test_a_dummy_run_between_steps_touches_nothing_and_steering_goes_on_after_it(state):
    spec = steer_spec(capture=CaptureSpec(positions=["all[:]"]))
    step(state, {"r": (spec, 2, 0, 2)})
    state.rest()
    made_up = torch.ones(1, D_MODEL)  # fewer tokens than the last step had
    for layer in range(N_LAYERS):
        state.intervene(made_up, None, layer)
    assert torch.equal(made_up, torch.ones(1, D_MODEL))
    assert step(state, {"r": (spec, 2, 2, 1)})[1].any()
    assert load(state.collect({"k": []})["captures"])["k/count"].tolist() == [3]


# ----------------------------------------------------------------------------------------------------- monitoring


def column(layer=1, **options) -> MonitorColumn:
    return MonitorColumn(layer=layer, direction=digest(EAST), **options)


def monitor_spec(*columns, key="k", **kw) -> RequestSpec:
    return RequestSpec(key=key, monitor=MonitorSpec(columns=list(columns)), **kw)


def test_every_position_is_projected_once_on_each_monitored_direction_after_steering(state):
    term = TermSpec(layer=1, direction=digest(EAST), value=2.0)
    spec = monitor_spec(column(0), column(1), column(2, cosine=True), terms=[term])
    step(state, {"plain": (None, 2, 0, 2), "r": (spec, 3, 0, 3)})
    step(state, {"r": (spec, 3, 3, 1), "plain": (None, 2, 2, 1)})
    step(state, {"plain": (None, 2, 3, 1)})  # preempted
    step(state, {"r": (spec, 3, 0, 5)})  # computed anew, and one position more
    projections = load(state.collect({"k": []})["captures"])["k/projections/0"]
    # Every column of the stream is position + 1; steering adds 2 in the first one, on layer 1.
    positions = torch.arange(5.0)
    torch.testing.assert_close(projections, torch.stack([positions + 1, positions + 3, torch.full((5,), 0.5)], dim=1))


def test_two_requests_monitor_their_own_directions_in_one_batch(state):
    north = np.eye(D_MODEL, dtype=np.float32)[1] * -1
    state.bank.put(digest(north), north.tobytes())
    first = RequestSpec(key="first", monitor=MonitorSpec(columns=[column(1)], prompt=False))
    both = [MonitorColumn(layer=1, direction=digest(north)), column(1)]
    other = RequestSpec(key="other", monitor=MonitorSpec(columns=both, prompt=False))
    step(state, {"a": (first, 1, 4, 1), "p": (None, 1, 0, 3), "b": (other, 1, 7, 2)})
    captures = load(state.collect({"first": [], "other": []})["captures"])
    assert captures["first/projections/0"].tolist() == [[5.0]]
    assert captures["other/projections/0"].tolist() == [[-8.0, 8.0], [-9.0, 9.0]]


def test_a_bound_holds_from_the_position_that_produces_the_first_generated_token(state):
    spec = monitor_spec(column(0), column(1, above=5.5, stop=True))
    step(state, {"r": (spec, 4, 0, 4)})  # projections 1..4: the prompt but for its last position is not looked at
    assert not verdict(state)
    step(state, {"r": (spec, 4, 4, 1)})
    assert not verdict(state)
    step(state, {"r": (spec, 4, 5, 1)})
    assert verdict(state) == StepVerdict(ended=["r"])
    bound_hits = state.collect({"k": []})["reports"]["k"]["bound_hits"]
    assert bound_hits == ({"completion": 0, "column": 1, "position": 5, "value": 6.0, "stop": True},)


def test_a_bound_that_only_marks_lets_the_request_go_on(state):
    spec = monitor_spec(column(1, below=100.0))
    step(state, {"r": (spec, 4, 0, 4)})
    assert not verdict(state)
    assert state.collect({"k": []})["reports"]["k"]["bound_hits"][0]["position"] == 3


def test_a_step_is_judged_by_its_own_positions_though_the_next_one_has_run(state):
    """Asynchronous scheduling: a step's output is made while the next step runs."""
    spec = monitor_spec(column(1, above=5.5, stop=True))
    step(state, {"r": (spec, 4, 0, 5)}, judged=False)
    first = ENDS[id(state)]
    step(state, {"r": (spec, 4, 5, 1)}, judged=False)  # crosses
    second = ENDS[id(state)]
    assert second.verdict() == StepVerdict(ended=["r"])
    assert not first.verdict()


def test_what_was_computed_beyond_the_text_is_not_reported(state):
    """Asynchronous scheduling computes one position after a stop token before it knows of it."""
    spec = monitor_spec(column(1, above=7.5)).model_copy(update={"terms": steer_spec().terms})
    for n_computed, n in [(0, 4), (4, 1), (5, 1)]:
        step(state, {"r": (spec, 4, n_computed, n)})
    state.remove("r")
    taken = state.collect({"k": [2]})  # two tokens: positions 0..4 made them
    report = taken["reports"]["k"]
    assert (report["steered_prompt"], report["steered_generated"]) == (4, 1)
    assert report["bound_hits"] == ()
    assert len(load(taken["captures"])["k/projections/0"]) == 5


def test_a_direction_that_is_not_in_the_bank_fails_its_monitor(state):
    spec = RequestSpec(key="k", monitor=MonitorSpec(columns=[MonitorColumn(layer=0, direction="0" * 64)]))
    step(state, {"r": (spec, 1, 0, 1)})
    assert "not in the vector bank" in state.collect({"k": []})["reports"]["k"]["error"]


def test_decoding_steps_of_one_batch_and_a_batch_that_moved_are_steered_alike(state):
    """The index tensors of a step are kept while its shape stays; a shape that differs must not meet old ones."""
    spec = steer_spec(scope=[2, 6])
    seen = []
    for batch in [
        {"r": (spec, 2, 0, 2)},
        {"r": (spec, 2, 2, 1)},
        {"r": (spec, 2, 3, 1)},
        {"p": (None, 1, 0, 3), "r": (spec, 2, 4, 1)},
        {"p": (None, 1, 3, 1), "r": (spec, 2, 5, 1)},
        {"r": (spec, 2, 6, 1)},
    ]:
        delta = step(state, batch)[1].any(dim=1)
        seen.append(delta.tolist())
    assert seen == [[False, False], [True], [True], [False, False, False, True], [False, True], [False]]


def test_a_monitored_prompt_that_came_from_the_prefix_cache_fails(state):
    step(state, {"r": (monitor_spec(column(0)), 8, 4, 4)})
    assert "prefix cache" in state.collect({"k": []})["reports"]["k"]["error"]


# ----------------------------------------------------------------------------------------------------- every position


def each_spec(positions="all[:]", layers=(0, 1), terms=(), **options) -> RequestSpec:
    capture = CaptureSpec(positions=[positions], layers=list(layers), each=True, **options)
    return RequestSpec(key="k", terms=list(terms), capture=capture)


def test_every_position_is_kept_once_before_or_after_steering(state):
    term = TermSpec(layer=1, direction=digest(EAST), value=2.0)
    for before_steering, added in [(False, 2.0), (True, 0.0)]:
        spec = each_spec("all[1:]", terms=[term], before_steering=before_steering)
        step(state, {"plain": (None, 2, 0, 2), "r": (spec, 3, 0, 2)})
        step(state, {"r": (spec, 3, 0, 3)})  # preempted, computed anew
        step(state, {"plain": (None, 2, 2, 1), "r": (spec, 3, 3, 1)})
        each = load(state.collect({"k": []})["captures"])["k/each"]
        assert each.shape == (3, 2, D_MODEL)
        assert each[:, 0].tolist() == [[p + 1.0] * D_MODEL for p in (1, 2, 3)]
        assert each[:, 1].tolist() == [[p + 1.0 + added, *[p + 1.0] * (D_MODEL - 1)] for p in (1, 2, 3)]
        state.remove("r")


def test_every_position_of_one_request_does_not_hold_more_than_the_limit():
    state = SteeringState(EngineSettings(max_spool_bytes=3 * D_MODEL * 4), SHAPE)
    step(state, {"r": (each_spec(layers=[0]), 3, 0, 3)})
    assert not verdict(state)
    step(state, {"r": (each_spec(layers=[0]), 3, 3, 1)})
    assert verdict(state) == StepVerdict(failed=["r"])
    assert "more than 48 bytes" in state.collect({"k": []})["reports"]["k"]["error"]
    state.remove("r")
    step(state, {"s": (each_spec(layers=[0]), 3, 0, 3)})
    assert state.collect({"k": []})["reports"]["k"]["error"] is None


def test_an_engine_that_does_not_come_by_at_each_layer_refuses_to_keep_every_position():
    state = SteeringState(EngineSettings(), replace(SHAPE, each_position=False))
    step(state, {"r": (each_spec(), 3, 0, 3)})
    assert "--enforce-eager" in state.collect({"k": []})["reports"]["k"]["error"]
