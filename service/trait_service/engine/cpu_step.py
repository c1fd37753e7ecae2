"""One step on the CPU: what each layer does, as index tensors for the torch kernels.

Rebuilt when the batch or the shape of the step changes; decode steps of one batch share it.
"""

from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch

from trait_service.engine import kernel_torch
from trait_service.engine.arithmetic import ARITHMETIC, LINEAR
from trait_service.engine.batch import Intervals, LiveBatch, Pools, Spans, Step
from trait_service.engine.buffers import VectorBank
from trait_service.engine.capture_rows import CaptureRows
from trait_service.engine.direction_sets import DirectionSet
from trait_service.engine.gates import BIT_MASK, GATE_SHIFT, MAX_GATES, SELECTOR_SHIFT, TOKEN
from trait_service.engine.kernel_torch import Gates, Held, Places, Pooled, Projected, Terms
from trait_service.engine.monitored_tokens import MonitoredTokens, StepTokens, TokenRows
from trait_service.engine.reply_scopes import ReplyScopes

MAX_KEPT_BYTES = 1 << 28
"""Cache of the summed additive deltas, reused for all decode steps of a batch."""


class CpuStep:
    """The CPU's side of the operation.

    Args:
        bank: Directions.
        pools: Running sums.
        n_layers: Sites of the engine (`Sites`).
        max_requests: Rows.
        sums_stages: The projections of all stages of a pipeline are summed: columns of layers elsewhere must be zero.

    Attributes:
        monitored: The monitored requests of the batch.
        monitored_tokens: Their tokens in the step; None: there are none.
        replies: The selectors of the batch's replies.
    """

    monitored: MonitoredTokens
    monitored_tokens: StepTokens | None

    def __init__(
        self, bank: VectorBank, pools: CaptureRows, n_layers: int, *, max_requests: int, sums_stages: bool = False
    ) -> None:
        self._bank = bank
        self._pools = pools
        self._sums_stages = sums_stages
        self._n_layers = n_layers
        self._resting = True
        self._terms: list[list[Terms]] = [[] for _ in range(n_layers)]
        self._gates: list[list[Gates]] = [[] for _ in range(n_layers)]
        self._open = torch.empty(0, dtype=torch.int32)
        self._held = torch.zeros((MAX_GATES, max_requests), dtype=torch.int64)
        self.replies = ReplyScopes(torch.device("cpu"))
        self._kept = False
        self._assigned: list[_Assigned] = []
        self._projected: list[list[Projected]]
        self._projected_rows: TokenRows | None
        self._values = torch.empty(0)
        self._matrices: WeakKeyDictionary[DirectionSet, torch.Tensor] = WeakKeyDictionary()
        self.regroup(LiveBatch(0, []))

    def regroup(self, batch: LiveBatch) -> None:
        """Rebuild the groups after a change of batch membership."""
        self._batch = batch
        self._term_groups = _TermGroups(batch)
        self._gate_groups = _GateGroups(batch)
        self.replies.regroup(batch)
        self._gates = [[] for _ in range(self._n_layers)]
        self._pool_groups = _PoolGroups(batch)
        self.monitored = MonitoredTokens(batch)
        self.monitored_tokens = None
        self._projected_rows, self._projected = None, self._products(None)

    def prepare(self, step: Step, computed_to: np.ndarray) -> None:
        """Make the index tensors of the coming forward pass.

        Args:
            step: Its tokens.
            computed_to: `(n_requests,)`: positions below were pooled before.
        """
        self._resting = False
        if self._term_groups.moved(step):
            self._terms = [[] for _ in range(self._n_layers)]
            for layer, terms in self._term_groups.on_step():
                self._terms[layer].append(terms)
            self._kept = False
        elif not self._kept:
            self._keep()
        if self._gate_groups or self.replies:
            # Memory of the step's own: it outlives the step.
            self._open = torch.zeros(step.n_tokens, dtype=torch.int32)
            if (held := self.replies.on_step(step)) is not None:
                self._open.index_copy_(0, held.place, held.word)
            self._gates = [[] for _ in range(self._n_layers)]
            self._held[:, self._batch.starting_rows(step)] = 0
            for layer, gates in self._gate_groups.on_step(step, self._held):
                self._gates[layer].append(gates)
        self._assigned = self._pool_groups.on_step(step, computed_to, self._pools)
        tokens = self.monitored_tokens = self.monitored.on_step(step)
        rows = None if tokens is None else tokens.rows
        if rows is not self._projected_rows:
            self._projected_rows = rows
            self._projected = self._products(rows)
        if rows is not None:
            # Memory of the step's own: it outlives the step.
            made = torch.zeros if self._sums_stages else torch.empty
            self._values = made((len(rows.place), self.monitored.width), dtype=torch.float32)

    def _products(self, rows: TokenRows | None) -> list[list[Projected]]:
        """Each layer's matrix products."""
        found: list[list[Projected]] = [[] for _ in range(self._n_layers)]
        if rows is None:
            return found
        for directions, begin, end in zip(
            self.monitored.sets, rows.set_begin.tolist(), rows.set_end.tolist(), strict=True
        ):
            if begin == end:
                continue
            places, matrix = Places.of(rows.place[begin:end]), self._matrix(directions)
            for layer, part in directions.parts.items():
                cosine = torch.from_numpy(directions.cosine[part]) if directions.cosine[part].any() else None
                found[layer].append(Projected(places, matrix[part], cosine, slice(begin, end), part))
        return found

    def _matrix(self, directions: DirectionSet) -> torch.Tensor:
        """`(n_directions, d_model)` float32: gathered from the bank once for as long as the set is in use."""
        matrix = self._matrices.get(directions)
        if matrix is None:
            matrix = self._matrices[directions] = self._bank.rows[torch.from_numpy(directions.bank_row)]
        return matrix

    def _keep(self) -> None:
        """Cache the deltas of terms that act on the same tokens as in the step before (a batch decodes)."""
        n_rows = sum(len(terms) for layer in self._terms for terms in layer if terms.additive)
        if n_rows * self._bank.d_model * self._bank.rows.element_size() <= MAX_KEPT_BYTES:
            self._terms = [[terms.kept(self._bank.rows) for terms in layer] for layer in self._terms]
        self._kept = True

    def rest(self, *, dummy: bool = False) -> None:
        """Note that no token of the next forward pass is steered, captured or monitored; a dummy pass is like any other here."""
        del dummy
        self._resting = True

    def intervene(self, residual: torch.Tensor, hidden: torch.Tensor | None, layer: int) -> None:
        """Steer, then capture and monitor, at the output of one layer."""
        if self._resting:
            return
        for gates in self._gates[layer]:
            kernel_torch.read_gates(residual, hidden, self._bank.rows, gates, self._open)
        for terms in self._terms[layer]:
            acting = terms.acting(self._open)
            if acting is not None:
                kernel_torch.steer(residual, hidden, self._bank.rows, acting)
        for assigned in self._assigned:
            if layer in assigned.layers:
                self._capture(residual, hidden, layer, assigned)
        for projected in self._projected[layer]:
            kernel_torch.monitor(residual, hidden, projected, self._values)

    def _capture(self, residual: torch.Tensor, hidden: torch.Tensor | None, layer: int, assigned: "_Assigned") -> None:
        pools = self._pools
        sums, norms = pools.sums[:, layer], pools.norms[:, layer]
        if assigned.added is not None:
            kernel_torch.capture(residual, hidden, assigned.added, sums, norms)
        if assigned.deferred is not None and pools.last is not None and pools.last_norms is not None:
            last, last_norms = pools.last[:, layer], pools.last_norms[:, layer]
            kernel_torch.defer(residual, hidden, assigned.deferred, sums, norms, last, last_norms)

    def copy_values(self) -> "HostValues":
        """The projections of the step's monitored tokens."""
        return HostValues(self._values)

    def copy_open(self) -> "HostValues":
        """The words of the step's tokens."""
        return HostValues(self._open)


class HostValues(NamedTuple):
    """Numbers of one step, which are on the host as soon as they are made."""

    values: torch.Tensor

    def read(self) -> np.ndarray:
        """Projections, `(n_monitored_tokens, n_directions)` float32; or words of gates, `(n_tokens,)` int32."""
        array: np.ndarray = self.values.numpy()
        return array


class _TermGroups:
    """The batch's terms, ordered by layer and by their order there: one group acts at once."""

    def __init__(self, batch: LiveBatch) -> None:
        terms, owner = batch.terms
        order = np.lexsort((terms["k"], terms["layer"]))
        terms = terms[order]
        self._intervals = Intervals.of(owner[order], terms["start"], terms["stop"], terms["step"])
        layers = terms["layer"].tolist()
        begins = np.flatnonzero(np.diff(terms["layer"], prepend=-1) | np.diff(terms["k"], prepend=-1)).tolist()
        self._groups = [(layers[a], slice(a, b)) for a, b in pairwise([*begins, len(terms)])]
        self._bank_row, self._mode, a, b = (
            torch.from_numpy(terms[name].copy()) for name in ("bank_row", "mode", "a", "b")
        )
        self._a, self._b = a.unsqueeze(-1), b.unsqueeze(-1)
        self._additive = (terms["mode"] & ARITHMETIC == LINEAR) & (terms["b"] == 0)
        bits = sum(1 << (terms["mode"] >> shift & BIT_MASK) >> 1 for shift in (GATE_SHIFT, SELECTOR_SHIFT))
        self._is_gated = bits > 0
        self._gate = torch.from_numpy(bits.astype(np.int32))
        self._spans: Spans | None = None

    def moved(self, step: Step) -> bool:
        """True if the terms' tokens are at other places than in the step before."""
        before, self._spans = self._spans, self._intervals.spans(step)
        return before is None or not (
            np.array_equal(before.place, self._spans.place) and np.array_equal(before.length, self._spans.length)
        )

    def on_step(self) -> list[tuple[int, Terms]]:
        """The layers' terms, in the order in which they act."""
        assert self._spans is not None, "moved() comes first"
        made = []
        for layer, group in self._groups:
            spans = self._spans.part(group)
            places = spans.places()
            if not len(places):
                continue
            which: slice | torch.Tensor = group
            if not (spans.length == 1).all():
                which = torch.from_numpy(np.repeat(np.arange(group.start, group.stop), spans.length))
            terms = Terms(
                Places.of(places),
                self._bank_row[which],
                self._a[which],
                self._b[which],
                self._mode[which],
                bool(self._additive[group].all()),
                self._gate[which] if self._is_gated[group].any() else None,
            )
            made.append((layer, terms))
        return made


class _GateGroups:
    """The batch's gates, ordered by layer, slot and hold: one group is read at once."""

    def __init__(self, batch: LiveBatch) -> None:
        gates, owner = batch.gates
        kinds = ("layer", "slot", "hold")
        order = np.lexsort([gates[kind] for kind in reversed(kinds)])
        gates, owner = gates[order], owner[order]
        self._intervals = Intervals(owner, gates["start"], gates["stop"])
        self._row = batch.rows[owner].astype(np.int64)
        self._n_prompt = gates["n_prompt"]
        changes = [np.diff(gates[kind], prepend=-1) != 0 for kind in kinds]
        begins = np.flatnonzero(np.logical_or.reduce(changes)).tolist()
        self._groups = [(*gates[list(kinds)][a].tolist(), slice(a, b)) for a, b in pairwise([*begins, len(gates)])]
        self._bank_row, self._bound = (
            torch.from_numpy(gates["bank_row"].copy()),
            torch.from_numpy(gates["bound"].copy()),
        )
        self._below = torch.from_numpy(gates["below"] != 0)

    def __bool__(self) -> bool:
        return bool(self._groups)

    def on_step(self, step: Step, numbers: torch.Tensor) -> list[tuple[int, Gates]]:
        """The layers' gates with their tokens in the step.

        Args:
            step: The step.
            numbers: `(MAX_GATES, n_rows)` int64: what the requests' rows hold.
        """
        spans = self._intervals.spans(step)
        made = []
        for layer, slot, hold, group in self._groups:
            part = spans.part(group)
            places = part.places()
            if not len(places):
                continue
            which = np.repeat(np.arange(group.start, group.stop), part.length)
            held = None if hold == TOKEN else self._held(step, places, which, hold, numbers[slot])
            bank_row, bound, below = (
                each[torch.from_numpy(which)] for each in (self._bank_row, self._bound, self._below)
            )
            made.append((layer, Gates(Places.of(places), bank_row, bound, below, 1 << slot, held)))
        return made

    def _held(self, step: Step, places: np.ndarray, which: np.ndarray, hold: int, numbers: torch.Tensor) -> Held:
        owner = self._intervals.owner[which]
        position = places - step.first_place[owner] + step.n_computed[owner]
        row, position, n_prompt = (
            torch.from_numpy(each) for each in (self._row[which], position, self._n_prompt[which])
        )
        return Held(hold, numbers, row, position, n_prompt)


class _Assigned(NamedTuple):
    """Tokens and their pools on some layers: those that are added, and those that wait."""

    layers: frozenset[int]
    added: Pooled | None
    deferred: Pooled | None


class _PoolGroups:
    """The batch's pools, by their order in their request: most requests have one, so that places follow one another."""

    def __init__(self, batch: LiveBatch) -> None:
        groups: dict[tuple[int, frozenset[int]], list[tuple[int, ...]]] = defaultdict(list)
        for index, request in batch.capturing_requests:
            layers = frozenset(request.captured_layers)
            for order, (row, intervals) in enumerate(zip(request.capture_rows, request.pools, strict=True)):
                groups[order, layers] += [(index, *each, row, request.n_prompt) for each in intervals]
        self._groups = []
        for (_, layers), found in groups.items():
            owner, start, stop, step, pool, n_prompt = np.array(found, dtype=np.int64).reshape(-1, 6).T
            self._groups.append((layers, Pools(Intervals.of(owner, start, stop, step), pool, n_prompt)))

    def on_step(self, step: Step, computed_to: np.ndarray, rows: CaptureRows) -> list[_Assigned]:
        """Assign tokens to pools, and raise the pools' counts."""
        made = []
        for layers, pools in self._groups:
            fresh, waits = pools.note(step, computed_to, rows)
            added = fresh._replace(length=fresh.length - waits)
            pooled = _pooled(added.places(), np.repeat(pools.row, added.length))
            made.append(_Assigned(layers, pooled, _pooled(fresh.last[waits], pools.row[waits])))
        return made


def _pooled(places: np.ndarray, rows: np.ndarray) -> Pooled | None:
    return Pooled(Places.of(places), Places.of(rows)) if len(places) else None
