"""The terms and pools of each live request, as the CUDA kernel reads them: a row of int32 words each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from trait_core.intervals import UNBOUNDED

from trait_service.engine.batch import joined
from trait_service.engine.buffers import NO_ROW, Mirrored, on_device
from trait_service.engine.gates import GATE, MAX_GATES
from trait_service.engine.requests import MAX_POOL_INTERVALS, TERM, LiveRequest

POOL_WORDS, GATE_WORDS, TERM_WORDS = 4, 4, 6
"""Words of an entry. Interval of a pool: row of the running sums (`NO_ROW`: none), start, stop, step. Gate: bank row, 1 if it is
open below its bound and twice its hold, the bits of the bound, its prompt's length. Term: bank row (`NO_ROW`: none), mode and step, start, stop, and the bits of a
and b."""

STEP_SHIFT = 12
"""Bits of a term's second word that hold its mode; above them is its step."""

CAPTURED_BIT = 1
"""Bit of a layer's word: its pools take this layer."""

GATES_SHIFT = 1
"""Above that bit: a bit for each slot whose gate is read on this layer."""

SETTLE_SHIFT = GATES_SHIFT + MAX_GATES
"""Above those: a bit for each slot whose gate holds a number, and was read on the layer before."""

STEER, CAPTURE, GATED = range(3)
"""Columns of a layer's flags: the most terms of a request there, whether it is captured, whether a gate is read there."""


@dataclass(frozen=True)
class Layout:
    """Where the entries of a row lie.

    Pools, gates, a word for each layer, and at the end each layer's first term, each layer's second term, and so on: terms that
    nobody uses need not travel.

    Args:
        n_layers: Sites of the engine (`Sites`).
        n_terms: Terms of one request on one layer.
    """

    n_layers: int
    n_terms: int

    @property
    def gates(self) -> int:
        """Word at which the gates begin, slot by slot."""
        return POOL_WORDS * MAX_POOL_INTERVALS

    @property
    def layers(self) -> int:
        """Word at which the layers' words begin."""
        return self.gates + GATE_WORDS * MAX_GATES

    @property
    def terms(self) -> int:
        """Word at which the terms begin."""
        return self.layers + self.n_layers

    def width(self, n_terms: int) -> int:
        """Words of a row with so many terms on each layer."""
        return self.terms + TERM_WORDS * self.n_layers * n_terms


class RequestTable:
    """The rows on the device, and what the host knows of each. A row belongs to one request while it is in the batch.

    Attributes:
        layout: Where a row's entries lie.
        tensor: `(n_rows, layout.width(n_terms))` int32.
        flags: `(n_layers, 4)` int32: the most terms of a request on a layer, whether it is captured, whether a gate is read there,
            0.
        start: `(n_rows,)` first absolute position on which the row's request is steered or captured.
        stop: `(n_rows,)` one past the last.
        n_prompt: `(n_rows,)` its prompt's length.
        gated: `(n_rows,)` bool: its terms depend on the words of its tokens.
        pools: `(n_rows, MAX_POOL_INTERVALS, POOL_WORDS)` the intervals of its pools.
    """

    def __init__(self, n_layers: int, n_rows: int, n_terms: int, device: torch.device) -> None:
        self.layout = Layout(n_layers, n_terms)
        self.tensor = torch.full((n_rows, self.layout.width(n_terms)), NO_ROW, dtype=torch.int32, device=device)
        self.flags = Mirrored((n_layers, 4), np.int32, device)
        self.start, self.stop, self.n_prompt = (np.zeros(n_rows, dtype=np.int64) for _ in range(3))
        self.gated = np.zeros(n_rows, dtype=np.bool_)
        self.pools = np.full((n_rows, MAX_POOL_INTERVALS, POOL_WORDS), NO_ROW, dtype=np.int64)
        self._requests: dict[int, LiveRequest] = {}
        self._asks = np.zeros((n_rows, n_layers, 4), dtype=np.int8)  # as `flags`, of each row

    def update(self, present: dict[int, LiveRequest]) -> None:
        """Bring the table to the requests of a batch, given by row: what changed travels in one copy."""
        before, self._requests = self._requests, present
        joining = {row: request for row, request in present.items() if before.get(row) is not request}
        if joining:
            self._write(np.fromiter(joining, dtype=np.int64), _Entries.of(list(joining.values())))
        if joining or len(present) < len(before):
            flags = self._asks[list(present)].max(axis=0, initial=0)
            if not np.array_equal(flags, self.flags.array):
                self.flags.array[:] = flags
                self.flags.flush()

    def _write(self, rows: np.ndarray, entries: "_Entries") -> None:
        left = self._asks[rows, :, STEER].max()  # terms of the rows' last requests must go, too
        asks = self._asks[rows] = entries.asks(len(rows), self.layout.n_layers)
        most = int(max(left, asks[:, :, STEER].max()))
        words = np.empty((len(rows), 1 + self.layout.width(most)), dtype=np.int32)
        words[:, 0] = rows
        entries.fill(words[:, 1:], self.layout)
        sent = on_device(words, self.tensor.device)
        self.tensor[:, : words.shape[1] - 1].index_copy_(0, sent[:, 0].long(), sent[:, 1:])
        self.start[rows], self.stop[rows] = entries.hull(len(rows))
        self.n_prompt[rows] = entries.n_prompt
        self.gated[rows] = entries.gated
        self.pools[rows] = NO_ROW
        if len(entries.pools):
            self.pools[rows[entries.pools[:, 0]], entries.pools[:, 1]] = entries.pools[:, 2:]


class _Entries(NamedTuple):
    """All entries of some requests, and the place of the request that owns each."""

    n_prompt: np.ndarray
    gated: np.ndarray
    terms: np.ndarray
    term_owner: np.ndarray
    gates: np.ndarray
    gate_owner: np.ndarray
    captured_layer: np.ndarray
    captured_owner: np.ndarray
    pools: np.ndarray
    """`(n_entries, 6)`: owner, order, row of the running sums, start, stop, step."""

    @classmethod
    def of(cls, requests: Sequence[LiveRequest]) -> "_Entries":
        """The entries; of a request that failed only its terms and gates, as in `LiveBatch`."""
        capturing = [
            (i, request) for i, request in enumerate(requests) if request.capture_rows and request.error is None
        ]
        pools = [
            (i, order, row, *interval)
            for i, request in capturing
            for order, (row, interval) in enumerate(
                (row, each) for row, pool in zip(request.capture_rows, request.pools, strict=True) for each in pool
            )
        ]
        captured = [np.array(request.captured_layers, dtype=np.int64) for _, request in capturing]
        return cls(
            np.array([request.n_prompt for request in requests], dtype=np.int64),
            np.array([request.reads_words for request in requests], dtype=np.bool_),
            *joined([(i, request.terms) for i, request in enumerate(requests)], TERM),
            *joined([(i, request.gates) for i, request in enumerate(requests)], GATE),
            np.concatenate([np.empty(0, dtype=np.int64), *captured]),
            np.repeat([i for i, _ in capturing], [len(layers) for layers in captured]).astype(np.int64),
            np.array(pools, dtype=np.int64).reshape(-1, 6),
        )

    def fill(self, words: np.ndarray, layout: Layout) -> None:
        """Write the rows: `(n_requests, layout.width(n))` int32, for an n that no request's terms on a layer exceed."""
        words[:] = NO_ROW
        words[:, layout.layers : layout.terms] = 0
        if len(self.pools):
            owner, order = self.pools[:, 0], self.pools[:, 1]
            words[owner[:, None], order[:, None] * POOL_WORDS + np.arange(POOL_WORDS)] = self.pools[:, 2:]
            words[self.captured_owner, layout.layers + self.captured_layer] = CAPTURED_BIT
        if len(self.gates):
            self._fill_gates(words, layout)
        terms = self.terms
        at = layout.terms + (terms["k"] * layout.n_layers + terms["layer"]) * TERM_WORDS
        how = terms["mode"] | terms["step"] << STEP_SHIFT
        numbers = [each.astype(np.int32) for each in (terms["bank_row"], how, terms["start"], terms["stop"])]
        bits = [terms[name].astype(np.float32).view(np.int32) for name in ("a", "b")]
        words[self.term_owner[:, None], at[:, None] + np.arange(TERM_WORDS)] = np.stack([*numbers, *bits], axis=1)

    def _fill_gates(self, words: np.ndarray, layout: Layout) -> None:
        gates = self.gates
        bits, holds = 1 << gates["slot"], gates["hold"] > 0
        np.bitwise_or.at(words, (self.gate_owner, layout.layers + gates["layer"]), bits << GATES_SHIFT)
        after = (self.gate_owner[holds], layout.layers + gates["layer"][holds] + 1)
        np.bitwise_or.at(words, after, bits[holds] << SETTLE_SHIFT)
        kind, bound = gates["below"] + 2 * gates["hold"], gates["bound"].astype(np.float32).view(np.int32)
        numbers = [gates["bank_row"], kind, bound, gates["n_prompt"]]
        at = layout.gates + gates["slot"] * GATE_WORDS
        words[self.gate_owner[:, None], at[:, None] + np.arange(GATE_WORDS)] = np.stack(numbers, axis=1)

    def asks(self, n: int, n_layers: int) -> np.ndarray:
        """`(n, n_layers, 4)` int8: each request's flags, as those of `RequestTable`."""
        found = np.zeros((n, n_layers, 4), dtype=np.int8)
        terms = self.terms
        np.maximum.at(found[:, :, STEER], (self.term_owner, terms["layer"]), (terms["k"] + 1).astype(np.int8))
        if len(self.pools):
            found[self.captured_owner, self.captured_layer, CAPTURE] = 1
        gates = self.gates
        found[self.gate_owner, gates["layer"], GATED] = 1
        found[self.gate_owner, gates["layer"] + (gates["hold"] > 0), GATED] = 1
        return found

    def hull(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """`(n,)` the first position on which each request is steered or captured, and one past the last."""
        start, stop = np.full(n, UNBOUNDED, dtype=np.int64), np.zeros(n, dtype=np.int64)
        np.minimum.at(start, self.term_owner, self.terms["start"])
        np.maximum.at(stop, self.term_owner, self.terms["stop"])
        np.minimum.at(start, self.gate_owner, self.gates["start"])
        np.maximum.at(stop, self.gate_owner, self.gates["stop"])
        if len(self.pools):
            np.minimum.at(start, self.pools[:, 0], self.pools[:, 3])
            np.maximum.at(stop, self.pools[:, 0], self.pools[:, 4])
        return start, stop
