"""The Triton kernels equal the torch path, in Triton's interpreter on the CPU; on a GPU `make test-gpu` compares them.

Triton is not among the CPU's pinned packages: `make test-triton` puts it aside and runs these.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="make test-triton runs these")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("make test-triton runs these", allow_module_level=True)

from trait_core.intervals import UNBOUNDED, Interval
from trait_service.engine import kernel_monitor
from trait_service.engine.arithmetic import coefficients
from trait_service.engine.batch import LiveBatch, Step
from trait_service.engine.buffers import VectorBank
from trait_service.engine.capture_rows import CaptureRows
from trait_service.engine.cpu_step import CpuStep
from trait_service.engine.cuda_step import CudaStep
from trait_service.engine.direction_sets import DirectionSet
from trait_service.engine.gates import FIRST_SELECTOR_BIT, GATE, GATE_SHIFT, LATCH, PROMPT, SELECTOR_SHIFT, TOKEN
from trait_service.engine.kernel_triton import constants
from trait_service.engine.monitor_table import TILE_TOKENS
from trait_service.engine.reply_selector import ReplyItem, ReplySelector, ReplyStart, selectors_of
from trait_service.engine.requests import TERM, LiveRequest
from trait_service.engine.spec import RequestSpec, TermSpec

N_LAYERS, N_ROWS, N_POOLS, N_DIRECTIONS, MAX_TOKENS = 3, 6, 12, 5, 64
OPERATIONS = ("add", "ablate", "set", "scale", "floor", "ceiling", "replace", "rotate")
CPU = torch.device("cpu")
SPEC = RequestSpec(key="k", terms=[TermSpec(layer=0, direction="0" * 64)])
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def term(layer, k, operation, value, bank_row, start=0, stop=UNBOUNDED, preserve_norm=False, step=1, slot=-1):
    asked = TermSpec(layer=layer, direction="0" * 64, operation=operation, value=value, preserve_norm=preserve_norm)
    mode, a, b = coefficients(asked)
    return (layer, k, bank_row, mode | slot + 1 << GATE_SHIFT, a, b, start, stop, step)


def gate(slot, layer, bank_row, bound, *, below=False, hold=TOKEN, n_prompt=3, start=0, stop=UNBOUNDED):
    return (slot, layer, bank_row, below, hold, n_prompt, bound, start, stop)


class Sides:
    """Both sides of the operation over the same directions, each with pools of its own."""

    def __init__(self, d_model=24, *, deferred=False, dtype=torch.float32, split=True, seed=0):
        self.generator = torch.Generator().manual_seed(seed)
        self.bank = VectorBank(N_DIRECTIONS, d_model, CPU)
        self.bank.rows.copy_(torch.nn.functional.normalize(self.randn(N_DIRECTIONS, d_model), dim=-1))
        self.d_model, self.dtype, self.split = d_model, dtype, split
        self.shared = None
        self.decided = []  # 1 for each token whose gate was open, 0 for each other
        self.pools = [CaptureRows(N_LAYERS, N_POOLS, d_model, CPU, deferred=deferred) for _ in range(2)]
        self.torch = CpuStep(self.bank, self.pools[0], N_LAYERS, max_requests=N_ROWS)
        sizes = {"n_layers": N_LAYERS, "max_tokens": MAX_TOKENS, "max_requests": N_ROWS, "terms_per_layer": 4}
        self.triton = CudaStep(self.bank, self.pools[1], **sizes, device=CPU)

    def randn(self, *shape):
        return torch.randn(*shape, generator=self.generator)

    def take(self, n):
        rows = [pools.take(n) for pools in self.pools]
        assert rows[0] == rows[1]
        return rows[0]

    def give_back(self, rows):
        for pools in self.pools:
            pools.give_back(rows)

    def regroup(self, batch):
        self.torch.regroup(batch)
        self.triton.regroup(batch)

    def forward(self, batch, step, padding=2):
        """One pass through both: asserts that streams, sums and projections are equal; returns each layer's streams."""
        self.torch.prepare(step, batch.computed_to)
        self.triton.prepare(step, batch.computed_to)
        tolerance = {"atol": TOLERANCE[self.dtype], "rtol": TOLERANCE[self.dtype]}
        changed = []
        for layer in range(N_LAYERS):
            residual = self.randn(step.n_tokens + padding, self.d_model).to(self.dtype)
            hidden = self.randn(step.n_tokens + padding, self.d_model).to(self.dtype) if self.split else None
            expected, got = residual.clone(), residual.clone()
            self.torch.intervene(expected, hidden, layer)
            self.triton.intervene(got, hidden, layer)
            torch.testing.assert_close(got, expected, **tolerance)
            untouched = ~touched(batch, step, layer, len(residual))
            assert torch.equal(got[untouched], residual[untouched])
            changed.append((got != residual).any(dim=1))
        reference, mine = self.pools
        assert mine.counts.tolist() == reference.counts.tolist()
        assert mine.deferred_position.tolist() == reference.deferred_position.tolist()
        of_sums = {name: value * max(1, int(mine.counts.max())) for name, value in tolerance.items()}
        for name in ("sums", "norms", "last", "last_norms"):
            if getattr(reference, name) is not None:
                torch.testing.assert_close(getattr(mine, name), getattr(reference, name), **of_sums)
        self.compare_projections(batch, step, tolerance)
        self.compare_gates(batch, step)
        batch.advance(step)
        batch.settle()
        return changed

    def compare_gates(self, batch, step):
        """The words of gated tokens, at the positions on which each gate is read."""
        if not batch.gated_requests:
            return
        expected, got = (side.copy_open().read() for side in (self.torch, self.triton))
        for index, request in batch.gated_requests:
            place = step.first_place[index] + np.arange(step.n_scheduled[index])
            position = place - step.first_place[index] + step.n_computed[index]
            for each in request.gates:
                here = place[(position >= each["start"]) & (position < each["stop"])]
                bits = [words[here] >> each["slot"] & 1 for words in (expected, got)]
                assert bits[0].tolist() == bits[1].tolist()
                self.decided += bits[0].tolist()

    def compare_projections(self, batch, step, tolerance):
        tokens = self.torch.monitored_tokens
        n_projected = 0 if tokens is None else len(tokens.rows.place)
        asked = [
            step.first_place[index] + i
            for index, request in batch.monitored_requests
            for i in range(int(step.n_scheduled[index]))
            if step.n_computed[index] + i >= request.monitored_from
        ]
        assert n_projected == len(asked)
        if not asked:
            return
        assert sorted(tokens.rows.place.tolist()) == sorted(asked)
        expected, got = (side.copy_values().read() for side in (self.torch, self.triton))
        for request, begin, end in zip(self.torch.monitored.requests, tokens.rows.begin, tokens.rows.end, strict=True):
            here = slice(0, len(request.monitored))
            np.testing.assert_allclose(got[begin:end, here], expected[begin:end, here], **tolerance)
            assert expected[begin:end, here].all()


def touched(batch, step, layer, n_tokens):
    """`(n_tokens,)` bool: a term of the token's request is in scope there."""
    found = torch.zeros(n_tokens, dtype=torch.bool)
    for index, request in batch.live:
        for entry in request.terms[request.terms["layer"] == layer]:
            for i in range(int(step.n_scheduled[index])):
                at = int(step.n_computed[index]) + i
                inside = entry["start"] <= at < entry["stop"] and (at - entry["start"]) % entry["step"] == 0
                found[step.first_place[index] + i] |= bool(inside)
    return found


def step_of(*tokens):
    """From `(n_computed, n_scheduled)` of each request."""
    computed, scheduled = np.array(tokens, dtype=np.int64).T
    ends = np.cumsum(scheduled)
    return Step(computed, scheduled, ends - scheduled, int(ends[-1]))


VARIANTS = [
    pytest.param(dtype, split, deferred, id=f"{str(dtype).removeprefix('torch.')}-{'pair' if split else 'one'}-{when}")
    for dtype in TOLERANCE
    for split in (True, False)
    for deferred, when in ((False, "at-once"), (True, "deferred"))
]


@pytest.mark.parametrize(("dtype", "split", "deferred"), VARIANTS)
def test_every_operation_alone_and_with_its_norm_kept(dtype, split, deferred):
    for operation in OPERATIONS:
        for value in (0.3, -0.3):
            for preserve_norm in (False, True):
                sides = Sides(dtype=dtype, split=split, deferred=deferred)
                terms = [term(1, 0, operation, value, 2, preserve_norm=preserve_norm)]
                batch = LiveBatch(2, [(1, 0, LiveRequest(SPEC, 3, terms=np.array(terms, dtype=TERM)))])
                sides.regroup(batch)
                changed = sides.forward(batch, step_of((0, 2), (0, 12)))
                assert changed[1].any()


@pytest.mark.parametrize(("dtype", "split", "deferred"), VARIANTS)
@pytest.mark.parametrize("seed", [0] if os.environ.get("TRAIT_TRITON_SHORT") else [0, 1])
def test_batches_of_anything_that_come_and_go(dtype, split, deferred, seed):
    """Eight batches: requests join, leave, are computed in chunks and again from the start, among plain ones."""
    rng = np.random.default_rng(seed)
    sides = Sides(dtype=dtype, split=split, deferred=deferred, seed=seed)
    live: dict[int, LiveRequest] = {}
    for _ in range(8):
        for row in [row for row in live if rng.random() < 0.3]:
            sides.give_back(live.pop(row).capture_rows)
        free = [row for row in range(N_ROWS) if row not in live]
        for row in free[: int(rng.integers(0, 3))]:
            live[row] = made_up(rng, sides)
        rows = list(live)
        rng.shuffle(rows)
        size = len(rows) + 1  # the plain one is somewhere among them
        plain = int(rng.integers(0, size))
        indices = [index for index in range(size) if index != plain]
        batch = LiveBatch(size, [(index, row, live[row]) for index, row in zip(indices, rows, strict=True)])
        sides.regroup(batch)
        for _ in range(3):
            tokens = [(0, 2)] * size
            for index, request in batch.live:
                start = 0 if rng.random() < 0.15 else int(batch.computed_to[index])
                most = max(request.n_prompt - start, 1) if start == request.computed_to else request.computed_to
                tokens[index] = (start, int(rng.integers(1, max(min(most, 8), 1) + 1)))
            sides.forward(batch, step_of(*tokens), padding=int(rng.integers(0, 4)))
    assert set(sides.decided) == {0, 1}


def made_up(rng, sides):
    """A request with terms, pools and monitored directions of any kind, or some of them."""
    n_prompt = int(rng.integers(1, 8))
    terms, monitored, start, pools = [], None, 0, []
    gates = made_up_gates(rng, n_prompt) if rng.random() < 0.5 else []
    for layer in range(N_LAYERS):
        for k in range(int(rng.integers(0, 4))):
            start = int(rng.integers(0, 6))
            stop = UNBOUNDED if rng.random() < 0.6 else start + int(rng.integers(0, 6))
            operation = OPERATIONS[rng.integers(len(OPERATIONS))]
            terms.append(
                term(
                    layer,
                    k,
                    operation,
                    float(rng.normal()),
                    int(rng.integers(N_DIRECTIONS)),
                    start,
                    stop,
                    rng.random() < 0.3,
                    int(rng.choice([1, 1, 2, 3])),
                    slot=int(rng.choice([-1, *(each[0] for each in gates if each[1] + (each[4] > 0) <= layer)])),
                )
            )
    if rng.random() < 0.5:
        start = 0 if rng.random() < 0.5 else n_prompt - 1
        monitored = some_directions(rng, int(rng.integers(1, 6)))
        if rng.random() < 0.4:
            sides.shared = sides.shared or monitored
            monitored = sides.shared
    captured = [layer for layer in range(N_LAYERS) if rng.random() < 0.6]
    if captured and sides.pools[0].n_free >= 3:
        union = [Interval(0, 2), Interval(n_prompt + 1, UNBOUNDED, 3), Interval(n_prompt + 2, UNBOUNDED, 3)]
        kinds = [[Interval(0, UNBOUNDED)], [Interval(n_prompt, UNBOUNDED)], [Interval(1, n_prompt)], union]
        pools = [kinds[i] for i in rng.permutation(len(kinds))[: int(rng.integers(1, 4))]]
    return LiveRequest(
        SPEC,
        n_prompt,
        terms=np.array(terms, dtype=TERM),
        gates=np.array(gates, dtype=GATE),
        monitored=monitored,
        monitored_from=start,
        pools=pools,
        captured_layers=captured,
        capture_rows=sides.take(len(pools)),
    )


def made_up_gates(rng, n_prompt):
    """Up to the most of one request, on any layers that can be in time."""
    gates = []
    for slot in rng.permutation(8)[: int(rng.integers(1, 9))].tolist():
        hold = int(rng.choice([TOKEN, TOKEN, LATCH, PROMPT]))
        layer, bank_row = int(rng.integers(N_LAYERS - (hold > 0))), int(rng.integers(N_DIRECTIONS))
        bound = float(rng.normal()) * (3 if hold == LATCH else 1)
        gates.append(gate(slot, layer, bank_row, bound, below=rng.random() < 0.5, hold=hold, n_prompt=n_prompt))
    return gates


@pytest.mark.parametrize(("dtype", "split"), [(torch.float32, True), (torch.bfloat16, False)])
def test_a_term_acts_where_its_selector_holds_and_its_gate_is_open(dtype, split):
    """Of a reply whose reasoning is read in one step and answered in the next; a neighbour has neither."""
    sides = Sides(dtype=dtype, split=split)
    reply = ReplyStart(first=2, begin=7, end=8)
    bits = {
        ReplySelector(reply=reply, select=(ReplyItem(part=part),)): FIRST_SELECTOR_BIT + i
        for i, part in enumerate(("thinking", "answer"))
    }
    thinking, answer = (bit + 1 << SELECTOR_SHIFT for bit in bits.values())
    entries = [term(1, 0, "add", 5.0, 3, slot=2), term(1, 1, "set", 9.0, 1), term(2, 0, "add", 5.0, 1)]
    terms = np.array(entries, dtype=TERM)
    terms["mode"] |= [thinking, answer, thinking]
    gates = np.array([gate(2, 0, 3, 0.1)], dtype=GATE)
    replies = LiveRequest(SPEC, 2, terms=terms, gates=gates, selectors=selectors_of(bits))
    replies.marker_row, _ = (side.replies.take() for side in (sides.torch, sides.triton))
    plain = LiveRequest(SPEC, 3, terms=np.array([term(2, 0, "set", 9.0, 1)], dtype=TERM))
    batch = LiveBatch(2, [(0, 4, plain), (1, 1, replies)])
    sides.regroup(batch)
    first = torch.tensor([0] * 4 + [1, 1, 7, *[1] * 12, 8, 1, 0, 0])
    changed = sides.forward(batch, replace(step_of((0, 4), (0, 17)), input_ids=first))
    open_at = [bool(word >> 2 & 1) for word in sides.torch.copy_open().read()[4:21]]
    assert 0 < sum(open_at[3:15]) < 12
    assert changed[1][4:21].tolist() == [(3 <= at < 15 and open_at[at]) or at == 16 for at in range(17)]
    assert changed[2][4:21].tolist() == [3 <= at < 15 for at in range(17)]
    changed = sides.forward(batch, replace(step_of((4, 1), (17, 1)), input_ids=torch.tensor([1, 7, 0, 0])))
    assert [layer[1].item() for layer in changed] == [False, True, False]


def some_directions(rng, n):
    return DirectionSet.of(rng.integers(N_LAYERS, size=n), rng.integers(N_DIRECTIONS, size=n), rng.random(n) < 0.5)


@pytest.mark.parametrize(("dtype", "split"), [(torch.float32, True), (torch.bfloat16, True), (torch.float16, False)])
def test_a_term_acts_where_its_gate_is_open_and_nowhere_else(dtype, split):
    """The gate's layer is the steered one, or below it; the second term of the steered layer would open it; a neighbour has none."""
    for on in (0, 1):
        sides = Sides(dtype=dtype, split=split)
        gates = np.array([gate(5, on, 3, 0.1), gate(0, on, 3, 0.1, below=True)], dtype=GATE)
        terms = [term(1, 0, "add", 5.0, 3), term(1, 1, "add", 1.0, 0, slot=5), term(2, 0, "set", 9.0, 1, slot=0)]
        gated = LiveRequest(SPEC, 3, terms=np.array(terms, dtype=TERM), gates=gates)
        plain = LiveRequest(SPEC, 3, terms=np.array([term(2, 0, "set", 9.0, 1)], dtype=TERM))
        batch = LiveBatch(3, [(0, 4, plain), (2, 1, gated)])
        sides.regroup(batch)
        changed = sides.forward(batch, step_of((0, 9), (0, 2), (0, 20)))
        words = sides.torch.copy_open().read()
        below = [bool(word & 1) for word in words[11:31]]
        assert changed[1][11:31].all()
        assert changed[2].tolist() == [True] * 9 + [False] * 2 + below + [False] * 2
        assert set(below) == {True, False}
        assert [bool(word >> 5 & 1) for word in words[11:31]] == [not each for each in below]


@pytest.mark.parametrize(("dtype", "split"), [(torch.float32, True), (torch.bfloat16, False)])
def test_hundreds_of_directions_of_several_sets_in_one_batch(dtype, split):
    """Sets of one direction to 512, most of them on one layer, for one token to five tiles of them; widths are no multiple."""
    rng = np.random.default_rng(5)
    sides = Sides(d_model=200, dtype=dtype, split=split)
    crowded = DirectionSet.of(np.ones(512, dtype=np.int64), rng.integers(N_DIRECTIONS, size=512), rng.random(512) < 0.5)
    sets = [some_directions(rng, 256), crowded, some_directions(rng, 1)]
    requests = [LiveRequest(SPEC, 3, monitored=sets[i], monitored_from=first) for i, first in [(0, 0), (1, 2), (2, 0)]]
    sharing = LiveRequest(SPEC, 3, monitored=sets[0], monitored_from=0)
    batch = LiveBatch(5, [(0, 0, requests[0]), (1, 3, requests[1]), (2, 1, requests[2]), (4, 2, sharing)])
    sides.regroup(batch)
    sides.forward(batch, step_of((0, 17), (0, 4), (0, 3), (0, 2), (0, 20)))
    sides.forward(batch, step_of((17, 1), (4, 1), (3, 1), (2, 1), (20, 1)))
    sides.regroup(LiveBatch(1, [(0, 2, sharing)]))
    sides.forward(LiveBatch(1, [(0, 2, sharing)]), step_of((21, 1)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_stream_is_rounded_after_each_term(dtype):
    """Four additions of less than half a unit in the last place leave 1.0; their sum would not."""
    sides = Sides(dtype=dtype, split=False)
    sides.bank.rows.copy_(torch.eye(N_DIRECTIONS, sides.d_model))
    terms = [term(0, k, "add", 0.3 * torch.finfo(dtype).eps, 1) for k in range(4)]
    batch = LiveBatch(1, [(0, 0, LiveRequest(SPEC, 3, terms=np.array(terms, dtype=TERM)))])
    for side in (sides.torch, sides.triton):
        side.regroup(batch)
        side.prepare(step_of((0, 2)), batch.computed_to)
        stream = torch.ones(2, sides.d_model, dtype=dtype)
        side.intervene(stream, None, 0)
        assert torch.equal(stream, torch.ones_like(stream))


def test_the_terms_of_a_rows_last_request_are_gone():
    """The new one has fewer terms, and a neighbour keeps the layer's count high."""
    sides = Sides()
    terms = [term(1, k, "add", 1.0, k) for k in range(3)]
    neighbour = LiveRequest(SPEC, 3, terms=np.array(terms, dtype=TERM))
    gated = np.array([term(1, k, "add", 1.0, k, slot=0) for k in range(3)], dtype=TERM)
    many = LiveRequest(SPEC, 3, terms=gated, gates=np.array([gate(0, 1, 2, 0.0)], dtype=GATE))
    one = LiveRequest(SPEC, 3, terms=neighbour.terms[:1])
    for request in (many, one):
        batch = LiveBatch(2, [(0, 0, neighbour), (1, 1, request)])
        sides.regroup(batch)
        sides.forward(batch, step_of((0, 3), (0, 3)))


def test_a_layer_that_a_request_does_not_capture_is_left_out_for_it_alone():
    sides = Sides()
    requests = [
        LiveRequest(SPEC, 2, pools=[[Interval(0, UNBOUNDED)]], captured_layers=[layer], capture_rows=sides.take(1))
        for layer in (0, 2)
    ]
    batch = LiveBatch(2, [(0, 0, requests[0]), (1, 1, requests[1])])
    sides.triton.regroup(batch)
    sides.triton.prepare(step_of((0, 2), (0, 2)), batch.computed_to)
    for layer in range(N_LAYERS):
        sides.triton.intervene(torch.ones(4, sides.d_model), None, layer)
    pools = sides.pools[1]
    assert pools.sums[:2, :, 0].tolist() == [[2.0, 0.0, 0.0], [0.0, 0.0, 2.0]]
    assert pools.counts[:2].tolist() == [2, 2]


def test_a_long_prompt_is_summed_in_few_additions_and_a_wide_stream_one_token_at_a_time():
    """Monitored too: registers hold a tile of a narrow stream, and one token of a wide one."""
    monitored = some_directions(np.random.default_rng(0), 7)
    for d_model in (24, 8200):
        sides = Sides(d_model)
        request = LiveRequest(
            SPEC,
            30,
            pools=[[Interval(0, UNBOUNDED)], [Interval(5, 20)]],
            captured_layers=[1],
            capture_rows=sides.take(2),
            monitored=monitored,
        )
        batch = LiveBatch(1, [(0, 3, request)])
        sides.regroup(batch)
        at_once = kernel_monitor.constants(N_LAYERS, 1, d_model, has_hidden=True)["at_once"]
        assert at_once == (TILE_TOKENS if d_model == 24 else 1)
        gathers = constants(sides.triton.table.layout, d_model, 4, has_hidden=True, n_kinds=1)["gathers"]
        assert gathers == (d_model == 24)
        sides.forward(batch, step_of((0, 30)))


def test_a_step_that_rests_changes_nothing_and_a_dummy_launches_all_the_same():
    sides = Sides()
    terms = [term(layer, 0, "add", 1.0, 0) for layer in range(N_LAYERS)]
    request = LiveRequest(
        SPEC,
        3,
        terms=np.array(terms, dtype=TERM),
        pools=[[Interval(0, UNBOUNDED)]],
        captured_layers=[0, 1, 2],
        capture_rows=sides.take(1),
    )
    batch = LiveBatch(1, [(0, 0, request)])
    sides.triton.regroup(batch)
    sides.triton.prepare(step_of((0, 4)), batch.computed_to)
    for dummy in (True, False):
        sides.triton.rest(dummy=dummy)
        for layer in range(N_LAYERS):
            residual = sides.randn(4, sides.d_model)
            before = residual.clone()
            sides.triton.intervene(residual, None, layer)
            assert torch.equal(residual, before)
    assert not sides.pools[1].sums.any()
