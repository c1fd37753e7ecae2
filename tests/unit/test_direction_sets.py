"""Hundreds of monitored directions: sets that requests share, sets that come and go, and bounds on any of them."""

import hashlib

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load
from trait_core.schema import MAX_MONITORED
from trait_service.engine.engine_shape import EngineShape
from trait_service.engine.monitor_columns import MonitorColumn, MonitorColumns
from trait_service.engine.projection_rows import ProjectionRows
from trait_service.engine.runner_view import StepView
from trait_service.engine.settings import EngineSettings
from trait_service.engine.spec import MonitorSpec, RequestSpec
from trait_service.engine.state import SteeringState
from trait_service.engine.step_end import StepVerdict

N_LAYERS, D_MODEL, N_REQUESTS, N_PROMPT = 4, 24, 6, 3
SHAPE = EngineShape(N_LAYERS, D_MODEL, max_requests=N_REQUESTS, max_tokens=64, device=torch.device("cpu"))
ROWS = np.random.default_rng(3).normal(size=(MAX_MONITORED, D_MODEL)).astype("<f4")
DIRECTIONS = {hashlib.sha256(row.tobytes()).hexdigest(): row for row in ROWS}
NAMES = list(DIRECTIONS)


@pytest.fixture
def state() -> SteeringState:
    made = SteeringState(EngineSettings(bank_rows=MAX_MONITORED, capture_rows=1), SHAPE)
    for name, row in DIRECTIONS.items():
        made.bank.put(name, row.tobytes())
    return made


def columns_of(which, *, cosine=(), **bounds) -> list[MonitorColumn]:
    """Column i: direction `which[i]`, on a layer that goes up and down with i."""
    return [
        MonitorColumn(layer=(5 * i) % N_LAYERS, direction=NAMES[name], cosine=i in cosine, **bounds.get(f"at_{i}", {}))
        for i, name in enumerate(which)
    ]


def spec_of(key, columns, *, prompt=True) -> RequestSpec:
    return RequestSpec(key=key, monitor=MonitorSpec(columns=columns, prompt=prompt))


def run(state, requests: dict[str, tuple[RequestSpec | None, int, int]], seed=0) -> tuple[torch.Tensor, StepVerdict]:
    """One forward pass over made-up streams: request id -> (spec, n_computed, n_scheduled). `(n_layers, n_tokens, d_model)`."""
    computed, scheduled = (np.array([each[i] for each in requests.values()]) for i in (1, 2))
    extra_args = {name: spec and spec.to_extra_args() for name, (spec, _, _) in requests.items()}
    state.prepare(StepView(list(requests), scheduled, computed, lambda _: N_PROMPT, extra_args.get))
    halves = torch.randn(2, N_LAYERS, int(scheduled.sum()), D_MODEL, generator=torch.Generator().manual_seed(seed))
    for layer in range(N_LAYERS):
        state.intervene(halves[0, layer], halves[1, layer], layer)
    end = state.finish()
    return halves.sum(0), StepVerdict() if end is None else end.verdict()


def expected(streams, columns) -> np.ndarray:
    """`(n_tokens, n_columns)`, one direction at a time."""
    found = []
    for column in columns:
        projection = streams[column.layer] @ torch.from_numpy(DIRECTIONS[column.direction].copy())
        found.append(projection / streams[column.layer].norm(dim=-1) if column.cosine else projection)
    return torch.stack(found, dim=1).numpy()


def projections(state, key) -> np.ndarray:
    return load(state.collect({key: []})["captures"])[f"{key}/projections/0"].numpy()


def test_requests_with_shared_and_with_other_sets_in_one_batch_get_their_own(state):
    most = columns_of(range(MAX_MONITORED), cosine=range(0, 512, 3))
    few = columns_of([7, 3, 3])
    batch = {
        "a": (spec_of("a", most), 0, 5),
        "plain": (None, 0, 2),
        "b": (spec_of("b", few, prompt=False), 2, 2),
        "c": (spec_of("c", most), 0, 1),
    }
    streams, _ = run(state, batch)
    assert state.stats()["direction_sets"] == 2
    for key, at, columns in [("a", slice(0, 5), most), ("b", slice(7, 9), few), ("c", slice(9, 10), most)]:
        np.testing.assert_allclose(
            projections(state, key), expected(streams[:, at], columns), rtol=1e-5, atol=1e-4, err_msg=key
        )


def test_lists_that_differ_in_their_bounds_alone_share_a_set(state):
    bounded = columns_of(range(4), at_2={"above": 1.0})
    run(state, {"a": (spec_of("a", columns_of(range(4))), 0, 2), "b": (spec_of("b", bounded), 0, 2)})
    assert state.stats()["direction_sets"] == 1


def test_a_thousand_requests_with_sets_of_their_own_leave_nothing(state):
    rng = np.random.default_rng(0)
    for i in range(0, 1000, 5):
        batch = {f"r{j}": (spec_of(f"r{j}", columns_of(rng.integers(512, size=40))), 0, 1) for j in range(i, i + 5)}
        run(state, batch)
        assert state.stats()["direction_sets"] == 5
        for name in batch:
            state.remove(name)
        state.collect({name: [] for name in batch})
    run(state, {"plain": (None, 0, 1)})
    stats = state.stats()
    assert (stats["direction_sets"], stats["live_requests"], stats["reports_waiting"]) == (0, 0, 0)
    assert not state._step.monitored.sets
    assert not state._step._matrices, "the gathered directions went with their sets"
    assert not any(state._step._projected)


def test_a_set_follows_a_direction_that_has_moved_to_another_row_of_the_bank(state):
    """An aborted request may still hold the set when another one asks for the same directions."""
    columns = columns_of([0, 1])
    run(state, {"old": (spec_of("old", columns), 0, 1)})
    for name in NAMES[:2]:
        state.bank.drop(name)
    for name in NAMES[:2]:
        state.bank.put(name, DIRECTIONS[name].tobytes())
    streams, _ = run(state, {"old": (spec_of("old", columns), 1, 1), "new": (spec_of("new", columns), 0, 2)})
    np.testing.assert_allclose(projections(state, "new"), expected(streams[:, 1:], columns), rtol=1e-5, atol=1e-4)
    for name in ("old", "new"):
        state.remove(name)
    assert state.stats()["direction_sets"] == 0


@pytest.mark.parametrize("at", [0, 1, 299])
def test_a_bound_on_any_of_hundreds_of_directions_ends_its_request_alone(state, at):
    free = columns_of(range(300))
    streams, _ = run(state, {"free": (spec_of("free", free), 0, N_PROMPT), "other": (spec_of("other", free), 0, 1)})
    value = float(expected(streams[:, N_PROMPT - 1 : N_PROMPT], free)[0, at])
    for side, limit in (("above", value - 1e-3), ("below", value + 1e-3)):
        crossed = {f"at_{at}": {side: limit, "stop": True}, "at_150": {"above": 1e9, "below": -1e9, "stop": True}}
        spec = spec_of(f"k{side}", columns_of(range(300), **crossed))
        # Its own name, and a neighbour of the same length in front of it: the same streams.
        _, verdict = run(state, {f"r{side}": (spec, 0, N_PROMPT), "plain": (None, 0, 1)})
        assert verdict == StepVerdict(ended=[f"r{side}"])
        (hit,) = state.collect({f"k{side}": []})["reports"][f"k{side}"]["bound_hits"]
        assert (hit["column"], hit["position"], hit["stop"]) == (at, N_PROMPT - 1, True)
        assert hit["value"] == pytest.approx(value, abs=1e-4)


def test_the_first_crossing_is_that_of_the_first_position_and_there_of_the_first_column():
    columns = MonitorColumns.of(columns_of(range(5), at_1={"below": 0.0}, at_3={"above": 1.0}, at_4={"above": 9.0}))
    assert columns.first_crossing(np.zeros((3, 5), dtype=np.float32)) is None
    values = np.zeros((3, 5), dtype=np.float32)
    values[1, 3], values[2, 1] = 2.0, -1.0
    assert columns.first_crossing(values) == (1, 1)  # the second of the columns with a bound
    values[0, 0] = np.nan  # nobody has set a bound on this one
    assert columns.first_crossing(values) == (1, 1)
    values[0, 4] = np.nan
    assert columns.first_crossing(values) == (0, 2)
    assert MonitorColumns.of(columns_of(range(2))).first_crossing(values[:, :2]) is None


def test_columns_travel_as_text_that_is_read_once_for_all_requests_that_share_it():
    columns = columns_of(range(300), cosine=[4], at_7={"above": 2.5, "stop": True})
    specs = [RequestSpec.from_extra_args(spec_of(key, columns).to_extra_args()) for key in ("a", "b")]
    assert specs[0].monitor.columns is specs[1].monitor.columns
    assert list(specs[0].monitor.columns) == columns
    assert specs[0] == spec_of("a", columns)


def test_no_columns_and_more_than_the_limit_are_refused():
    for columns in ([], columns_of([0] * (MAX_MONITORED + 1))):
        with pytest.raises(ValidationError):
            MonitorSpec(columns=columns)
    with pytest.raises(ValidationError, match="direction"):
        MonitorSpec(columns=[{"layer": 0}])


def test_columns_may_be_dictionaries():
    columns = [{"layer": 2, "direction": NAMES[0], "above": 1.0}]
    spec = MonitorSpec.model_validate({"columns": columns})
    assert spec == MonitorSpec(columns=[MonitorColumn(**columns[0])])


def test_a_layer_that_the_model_lacks_fails_the_monitor(state):
    column = MonitorColumn(layer=N_LAYERS, direction=NAMES[0])
    run(state, {"r": (spec_of("k", [column]), 0, 1)})
    assert f"layer {N_LAYERS} is out of range" in state.collect({"k": []})["reports"]["k"]["error"]
    assert state.stats()["direction_sets"] == 0


def test_rows_grow_without_touching_those_that_were_handed_out():
    rows = ProjectionRows(2)
    rows.append(np.ones((1, 2), dtype=np.float32))
    first = rows.view()
    for i in range(9):
        rows.append(np.full((1, 2), i, dtype=np.float32))
    assert first.tolist() == [[1.0, 1.0]]
    assert rows.view(1)[:, 0].tolist() == list(range(9))
    assert rows.view(1, 3).shape == (2, 2)
    assert rows.view(5, 2).shape == (0, 2)
    assert len(rows) == 10
