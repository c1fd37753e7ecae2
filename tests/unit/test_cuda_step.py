"""The CUDA side's host work, on CPU tensors: what travels to the device, and when nothing is launched.

The kernel itself is tested by `make test-triton`. Here Triton is absent, so that a launch is an ImportError.
"""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trait_core.intervals import UNBOUNDED, Interval
from trait_service.engine.batch import LiveBatch, Step
from trait_service.engine.buffers import NO_ROW, VectorBank
from trait_service.engine.capture_rows import CaptureRows
from trait_service.engine.cuda_step import CudaStep
from trait_service.engine.direction_sets import DirectionSet
from trait_service.engine.gates import GATE, GATE_SHIFT
from trait_service.engine.monitor_table import HEADER_WORDS, TILE_TOKENS, TILE_WORDS
from trait_service.engine.requests import TERM, LiveRequest
from trait_service.engine.spec import RequestSpec, TermSpec

ROOT = Path(__file__).resolve().parents[2]
N_LAYERS, D_MODEL = 3, 8
CPU = torch.device("cpu")
SPEC = RequestSpec(key="k", terms=[TermSpec(layer=0, direction="0" * 64)])
CAPTURE, DEFER, GATED = 1, 2, 4
ACTS = "a launch imports Triton"


@pytest.fixture
def pools() -> CaptureRows:
    return CaptureRows(N_LAYERS, 4, D_MODEL, CPU, deferred=True)


@pytest.fixture
def cuda(pools) -> CudaStep:
    bank = VectorBank(2, D_MODEL, CPU)
    return CudaStep(bank, pools, n_layers=N_LAYERS, max_requests=4, max_tokens=16, terms_per_layer=2, device=CPU)


def steered(layer=1, k=0, start=0, stop=UNBOUNDED, n_prompt=3, step=1) -> LiveRequest:
    return LiveRequest(SPEC, n_prompt, terms=np.array([(layer, k, 1, 0, 2.0, 0.0, start, stop, step)], dtype=TERM))


def captured(rows, n_prompt=3, layers=(0, 2)) -> LiveRequest:
    pools = [[Interval(0, UNBOUNDED)], [Interval(n_prompt, UNBOUNDED)]][: len(rows)]
    return LiveRequest(SPEC, n_prompt, pools=pools, captured_layers=list(layers), capture_rows=rows)


def step_of(*tokens: tuple[int, int]) -> Step:
    """From `(n_computed, n_scheduled)` of each request."""
    computed, scheduled = np.array(tokens, dtype=np.int64).T
    ends = np.cumsum(scheduled)
    return Step(computed, scheduled, ends - scheduled, int(ends[-1]))


def listed(cuda: CudaStep) -> list[list[int]]:
    """The active tokens as the device sees them."""
    n = int(cuda.active.tensor[0, 0])
    return cuda.active.tensor[1 : n + 1].tolist()


def launches(cuda: CudaStep, layer: int) -> bool:
    try:
        cuda.intervene(torch.zeros(1, D_MODEL), None, layer)
    except ModuleNotFoundError as error:
        return error.name == "triton"
    return False


def test_only_tokens_of_requests_that_ask_for_something_there_are_listed(cuda):
    prompt_only = steered(stop=3)
    batch = LiveBatch(4, [(1, 3, steered()), (3, 0, prompt_only)])
    cuda.regroup(batch)
    cuda.prepare(step_of((0, 2), (0, 2), (5, 1), (1, 3)), batch.computed_to)
    assert listed(cuda) == [[2, 3, 0, CAPTURE], [3, 3, 1, CAPTURE], [5, 0, 1, CAPTURE], [6, 0, 2, CAPTURE]]
    batch.computed_to[:] = [2, 2, 6, 4]
    cuda.prepare(step_of((2, 1), (0, 4), (6, 1), (4, 1)), batch.computed_to)  # the second is computed again
    assert listed(cuda) == [[1 + i, 3, i, CAPTURE * (i >= 2) + DEFER * (i == 3)] for i in range(4)]


def test_the_last_generated_position_of_a_step_waits_and_is_counted(cuda):
    rows = [*cuda._pools.take(1), *cuda._pools.take(1)]
    batch = LiveBatch(1, [(0, 2, captured(rows))])
    cuda.regroup(batch)
    pools = cuda._pools
    for step, bits, counts, waiting in [
        (step_of((0, 3)), [CAPTURE] * 3, [3, 0], [-1, -1]),
        (step_of((3, 1)), [CAPTURE | DEFER], [4, 1], [3, 3]),
        (step_of((0, 6)), [0, 0, 0, 0, CAPTURE, CAPTURE | DEFER], [6, 3], [5, 5]),
    ]:
        cuda.prepare(step, batch.computed_to)
        batch.advance(step)
        assert [entry[3] for entry in listed(cuda)] == bits
        assert pools.counts[rows].tolist() == counts
        assert pools.deferred_position[rows].tolist() == waiting


@pytest.mark.skipif(importlib.util.find_spec("triton") is not None, reason=ACTS)
def test_nothing_is_launched_where_no_token_asks_for_anything_but_in_a_dummy_run(cuda):
    assert not any(launches(cuda, layer) for layer in range(N_LAYERS))
    batch = LiveBatch(1, [(0, 0, steered(layer=1, start=2, stop=4))])
    cuda.regroup(batch)
    for at, acting in [(0, []), (2, [1]), (4, [])]:
        cuda.prepare(step_of((at, 2)), batch.computed_to)
        assert [layer for layer in range(N_LAYERS) if launches(cuda, layer)] == acting
    cuda.prepare(step_of((2, 2)), batch.computed_to)
    cuda.rest(dummy=True)
    assert listed(cuda) == []
    assert all(launches(cuda, layer) for layer in range(N_LAYERS))
    cuda.rest()
    assert not any(launches(cuda, layer) for layer in range(N_LAYERS))


def directions(*layers, rows=None, cosine=False) -> DirectionSet:
    rows = np.zeros(len(layers), dtype=np.int64) if rows is None else np.array(rows)
    return DirectionSet.of(np.array(layers), rows, np.full(len(layers), cosine))


def test_a_layers_flags_follow_the_batch_also_after_a_request_has_failed(cuda):
    (row,) = cuda._pools.take(1)
    monitored = replace(steered(k=1), monitored=directions(2, 2, 0))
    requests = [steered(), monitored, captured([row])]
    cuda.regroup(LiveBatch(3, [(i, i, request) for i, request in enumerate(requests)]))
    assert cuda.table.flags.tensor[:, :2].tolist() == [[0, 1], [2, 0], [0, 1]]
    assert cuda.monitor_table.most.tolist() == [1, 0, 2]
    requests[1].error = requests[2].error = "no room"
    cuda.regroup(LiveBatch(1, [(0, 0, requests[0])]))
    assert cuda.table.flags.tensor[:, :2].tolist() == [[0, 0], [1, 0], [0, 0]]
    assert cuda.monitor_table.most.tolist() == [0, 0, 0]


def test_a_request_that_failed_before_its_first_step_is_steered_but_not_captured_or_monitored(cuda, pools):
    failed = replace(captured([0]), terms=steered().terms, monitored=directions(2), error="no")
    batch = LiveBatch(1, [(0, 0, failed)])
    cuda.regroup(batch)
    cuda.prepare(step_of((0, 1)), batch.computed_to)
    assert cuda.table.flags.tensor[:, :2].tolist() == [[0, 0], [1, 0], [0, 0]]
    assert cuda.monitored_tokens is None
    assert not pools.counts.any()


def test_a_gate_is_in_its_requests_row_in_the_word_and_flags_of_its_layer_and_in_the_bits_of_its_tokens(cuda):
    gated = steered(layer=2)
    gated.terms["mode"] |= 4 << GATE_SHIFT
    gated.gates = np.array([(3, 1, 1, 1, 0, 5, -0.5, 0, UNBOUNDED)], dtype=GATE)
    batch = LiveBatch(2, [(0, 2, gated), (1, 0, steered())])
    cuda.regroup(batch)
    cuda.prepare(step_of((4, 1), (4, 1)), batch.computed_to)
    assert [entry[3] & GATED for entry in listed(cuda)] == [GATED, 0]
    assert cuda.table.flags.tensor[:, :3].tolist() == [[0, 0, 0], [1, 0, 1], [1, 0, 0]]
    layout, words = cuda.table.layout, cuda.table.tensor[2]
    assert words[layout.layers : layout.terms].tolist() == [0, 1 << 3 << 1, 0]
    entry = words[layout.gates + 3 * 4 :][:4]
    assert (entry[:2].tolist(), entry[2:3].view(torch.float32).item()) == ([1, 1], -0.5)
    cuda.regroup(LiveBatch(2, [(0, 2, steered()), (1, 0, steered())]))
    assert words[layout.layers : layout.terms].tolist() == [0, 0, 0]
    assert not cuda.table.flags.tensor[:, 2].any()


def tiles(cuda) -> list[list[int]]:
    n = int(cuda.monitor_table.tiles[0])
    return cuda.monitor_table.tiles[HEADER_WORDS : HEADER_WORDS + n * TILE_WORDS].view(n, TILE_WORDS).tolist()


def test_a_set_that_requests_share_is_written_once_and_its_tokens_follow_one_another(cuda):
    """In tiles; each has the tokens of one set."""
    shared, own = directions(0, 2, 0, rows=[1, 0, 0], cosine=True), directions(1, rows=[1])
    live = [LiveRequest(SPEC, 2, monitored=of, monitored_from=1) for of in (shared, own, shared)]
    batch = LiveBatch(3, [(i, i, request) for i, request in enumerate(live)])
    table = cuda.monitor_table
    cuda.regroup(batch)
    cuda.prepare(step_of((0, 3), (0, 2), (5, 11)), batch.computed_to)
    rows = [row for row, _, _, _ in tiles(cuda)]
    assert [tile[1:3] for tile in tiles(cuda)] == [[0, 4], [4, 4], [8, 4], [12, 1], [13, 1]]
    assert rows[0] == rows[3] != rows[4]
    width = cuda.monitored.width
    assert table.tiles[:3].tolist() == [5, width, HEADER_WORDS + 5 * TILE_WORDS]
    at = int(table.tiles[2])
    assert table.tiles[at : at + 14].tolist() == [1, 2, *range(5, 16), 4]
    words = table.sets[rows[0]].tolist()
    assert words[: N_LAYERS + 1] == [0, 2, 2, 3]
    assert words[N_LAYERS + 1 : N_LAYERS + 4] == [3, 1, 1]  # the two of layer 0 come first
    table.sets[rows[0]] = 77
    cuda.regroup(LiveBatch(1, [(0, 2, live[2])]))
    assert (table.sets[rows[0]] == 77).all(), "it is written when it joins"
    cuda.rest()
    assert tiles(cuda) == []
    assert cuda.n_active == 0


def test_many_tokens_of_one_set_are_cut_into_tiles():
    bank, pools = VectorBank(2, D_MODEL, CPU), CaptureRows(N_LAYERS, 1, D_MODEL, CPU)
    sizes = {"n_layers": N_LAYERS, "max_requests": 2, "max_tokens": 40, "terms_per_layer": 1}
    side = CudaStep(bank, pools, **sizes, device=CPU)
    batch = LiveBatch(1, [(0, 0, LiveRequest(SPEC, 3, monitored=directions(2)))])
    side.regroup(batch)
    side.prepare(step_of((0, 39)), batch.computed_to)
    assert [tile[1:3] for tile in tiles(side)] == [
        [first, min(TILE_TOKENS, 39 - first)] for first in range(0, 39, TILE_TOKENS)
    ]


def test_only_rows_that_changed_are_written(cuda):
    first, second = steered(), steered(layer=0)
    cuda.regroup(LiveBatch(2, [(0, 1, first), (1, 2, second)]))
    cuda.table.tensor[1] = 77  # nobody's business any more
    cuda.regroup(LiveBatch(2, [(0, 1, first), (1, 2, steered(layer=2))]))
    assert (cuda.table.tensor[1] == 77).all()
    layout = cuda.table.layout
    terms = cuda.table.tensor[2, layout.terms :].view(2, N_LAYERS, 6)
    assert terms[0, :, 0].tolist() == [NO_ROW, NO_ROW, 1]
    assert (terms[1, :, 0] == NO_ROW).all()


def test_the_list_travels_only_if_it_holds_something_or_did(cuda):
    plain = LiveBatch(1, [(0, 0, steered(start=5))])
    cuda.regroup(plain)
    cuda.active.tensor.fill_(7)
    cuda.prepare(step_of((0, 2)), plain.computed_to)
    assert (cuda.active.tensor == 7).all()
    cuda.prepare(step_of((5, 1)), plain.computed_to)
    assert listed(cuda) == [[0, 0, 5, CAPTURE | DEFER]]
    cuda.rest()
    assert int(cuda.active.tensor[0, 0]) == 0


def test_stages_of_a_pipeline_start_from_zeros_and_a_step_alone_does_not():
    for sums_stages in (True, False):
        bank, pools = VectorBank(2, D_MODEL, CPU), CaptureRows(N_LAYERS, 1, D_MODEL, CPU)
        shape = {"n_layers": N_LAYERS, "max_requests": 2, "max_tokens": 8, "terms_per_layer": 1}
        side = CudaStep(bank, pools, **shape, device=CPU, sums_stages=sums_stages)
        batch = LiveBatch(1, [(0, 0, LiveRequest(SPEC, 3, monitored=directions(2)))])
        side.regroup(batch)
        side.monitor_table.values.fill_(5.0)
        side.prepare(step_of((0, 2)), batch.computed_to)
        assert side.copy_values().read().any() != sums_stages


def test_the_benchmark_of_the_hosts_time_measures_every_kind_of_work():
    command = [sys.executable, ROOT / "experiments" / "steering_overhead" / "host_cost.py", "--steps", "2"]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[2:]
    assert len(table) == 19
    assert all(float(row.split("|")[3]) > 0 for row in table[1:])
