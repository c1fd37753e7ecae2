"""The second set of CUDA graphs, on vLLM's own manager: what is captured into which set, and which set a step replays.

No CUDA here: in place of vLLM's capture loop and of its graphs there are lists of what they did.
"""

from itertools import count

import pytest
import torch

pytest.importorskip("vllm")

from trait_service.engine import operation
from trait_service.engine.cuda_step import CudaStep
from trait_service.engine.engine_shape import EngineShape
from trait_service.engine.idle_graphs import LEAST_GRAPH_BYTES, TwoGraphSets, UnmeasuredGraphs
from trait_service.engine.runner_view import StepView
from trait_service.engine.settings import EngineSettings
from trait_service.engine.spec import RequestSpec, TermSpec
from trait_service.engine.state import SteeringState
from vllm.config import VllmConfig
from vllm.config.compilation import CUDAGraphMode
from vllm.forward_context import BatchDescriptor, get_forward_context, set_forward_context
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor, CudaGraphManager, ModelCudaGraphManager

FULL = [BatchExecutionDescriptor(CUDAGraphMode.FULL, n, n, 1) for n in (8, 4, 2, 1)]
PIECES = BatchDescriptor(num_tokens=8, has_lora=True, num_active_loras=2)
SAMPLE_BYTES = 3 * LEAST_GRAPH_BYTES


class Graph:
    """One captured graph: the layers on which the operation was launched, and how often it was replayed."""

    def __init__(self, launches: list[int]) -> None:
        self.launches = launches
        self.n_replays = 0

    def replay(self) -> None:
        self.n_replays += 1


class State(SteeringState):
    """A state whose step is the CUDA one, and whose launches are noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shape = EngineShape(2, 8, max_requests=4, max_tokens=16, device=torch.device("cpu"))
        monkeypatch.setattr(SteeringState, "_new_step", lambda self: CudaStep(self.bank, self.pools, **SIZES))
        super().__init__(EngineSettings(bank_rows=2, capture_rows=2), shape)
        self.launches: list[int] = []

    def intervene(self, residual: torch.Tensor, hidden: torch.Tensor | None, layer: int) -> None:
        del residual, hidden
        self.launches.append(layer)


REQUESTS = count()
SIZES = {"n_layers": 2, "max_requests": 4, "max_tokens": 16, "terms_per_layer": 2, "device": torch.device("cpu")}


@pytest.fixture
def state(monkeypatch) -> State:
    return State(monkeypatch)


@pytest.fixture
def manager(state, monkeypatch):
    """vLLM's manager, with a capture loop that calls the model as vLLM's does."""

    def capture(self, forward, *_):
        descriptors = FULL[: self._max_full_descs_to_capture]
        forward(self)
        for desc in descriptors:
            assert desc not in self.graphs
            state.launches = []
            model()
            self.graphs[desc] = Graph(state.launches)
            if self._capture_mem_samples is not None:
                self._capture_mem_samples.append(SAMPLE_BYTES)

    monkeypatch.setattr(ModelCudaGraphManager, "capture", capture)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda: (0, 0))
    made = ModelCudaGraphManager.__new__(ModelCudaGraphManager)
    made.graphs, made._capture_descs = {}, {CUDAGraphMode.FULL: FULL}
    made._max_full_descs_to_capture = made._capture_mem_samples = None
    made.use_breakable_cg = made.use_aux_hidden_state_outputs = False
    made.is_last_pp_rank, made.hidden_states = True, torch.zeros(8, 8)
    made.breakable_cg_runner = None
    TwoGraphSets.adopt(made, state, UnmeasuredGraphs())
    return made


def model(**_):
    for layer in range(2):
        operation.intervene(torch.zeros(1, 8), None, layer, name=None)


def captured(manager, state):
    keys = []
    state.rest(dummy=True)
    with operation.bound(state):
        manager.capture(lambda self: keys.append(pieces_key(self)))
    return keys


def pieces_key(manager) -> BatchDescriptor:
    """The key under which vLLM's wrapper of a compiled piece captures and finds its graph."""
    seen = []
    with set_forward_context(None, VllmConfig(), num_tokens=8, batch_descriptor=PIECES):
        manager.run_pw_graph(lambda: seen.append(get_forward_context().batch_descriptor), {})
    return seen[0]


def step(*specs: RequestSpec | None) -> StepView:
    ids = [str(next(REQUESTS)) for _ in specs]
    args = {i: spec and spec.to_extra_args() for i, spec in zip(ids, specs, strict=True)}
    ones = torch.ones(len(ids), dtype=torch.int64).numpy()
    return StepView(ids, n_scheduled=ones, n_computed=4 * ones, n_prompt=lambda _: 4, extra_args=args.get)


def replayed(manager) -> Graph:
    before = {id(g): g.n_replays for g in [*manager.graphs.values(), *manager.trait_idle_graphs.values()]}
    manager.run_fullgraph(FULL[0])
    graphs = [*manager.graphs.values(), *manager.trait_idle_graphs.values()]
    [graph] = [g for g in graphs if g.n_replays != before[id(g)]]
    return graph


STEERED = RequestSpec(key="k", terms=[TermSpec(layer=0, direction="0" * 64)])


def test_one_set_holds_a_launch_for_each_layer_and_the_other_none(manager, state):
    captured(manager, state)
    assert [graph.launches for graph in manager.graphs.values()] == [[0, 1]] * len(FULL)
    assert [graph.launches for graph in manager.trait_idle_graphs.values()] == [[]] * len(FULL)
    with operation.bound(state):
        state.launches = []
        model()
    assert state.launches == [0, 1]  # the operation acts again


def test_an_idle_step_replays_graphs_without_launches_and_any_other_step_those_with(manager, state):
    launching_key, idle_key = captured(manager, state)
    for specs, launches, key in [
        ([None, None], [], idle_key),
        ([None, STEERED], [0, 1], launching_key),
        ([None], [], idle_key),
    ]:
        state.prepare(step(*specs))
        assert replayed(manager).launches == launches
        assert pieces_key(manager) == key


def test_the_pieces_of_both_sets_have_keys_that_differ_in_nothing_else(manager, state):
    launching_key, idle_key = captured(manager, state)
    assert launching_key == PIECES
    assert idle_key != PIECES
    assert (idle_key.num_tokens, idle_key.has_lora, idle_key.num_active_loras) == (8, True, 2)


def test_a_request_that_cannot_be_steered_keeps_the_launching_set(manager, state):
    captured(manager, state)
    state.prepare(step(STEERED))  # its direction is not in the bank: the request fails
    assert replayed(manager).launches == [0, 1]


def test_active_tokens_in_a_step_that_calls_itself_idle_are_never_served(manager, state):
    captured(manager, state)
    state.prepare(step(None))
    state._step.active.n = 1  # a fault that no known path leads to
    with pytest.raises(RuntimeError, match="1 active tokens"):
        manager.run_fullgraph(FULL[0])
    with pytest.raises(RuntimeError, match="--no-idle-graphs"):
        pieces_key(manager)


def test_a_failed_capture_leaves_the_operation_bound_and_the_launching_set_in_place(manager, state, monkeypatch):
    launching = manager.graphs
    monkeypatch.setattr(manager, "_beyond", lambda _: 1 / 0)
    manager._capture_mem_samples, manager._max_full_descs_to_capture = [], 2
    with pytest.raises(ZeroDivisionError):
        captured(manager, state)
    assert manager.graphs is launching
    assert manager.trait_captures is None


def test_a_memory_profile_counts_the_graphs_of_the_second_set_that_it_does_not_capture(manager, state):
    samples: list[int] = []
    manager._capture_mem_samples, manager._max_full_descs_to_capture = samples, 2
    captured(manager, state)
    assert samples == [SAMPLE_BYTES] * 2  # vLLM reckons the first set's share by these
    assert manager._capture_mem_samples is samples
    assert manager.trait_unmeasured.n_bytes == (len(FULL) - 2) * SAMPLE_BYTES


def test_released_graphs_leave_both_sets(manager, state):
    captured(manager, state)
    manager.release_graphs()
    assert manager.graphs == manager.trait_idle_graphs == {}
    assert issubclass(TwoGraphSets, CudaGraphManager)
