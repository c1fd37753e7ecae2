"""One live request in the engine: its terms, pools and monitored directions, and its progress."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from trait_core.errors import SteeringFailedError
from trait_core.intervals import UNBOUNDED, Interval

from trait_service.engine.arithmetic import coefficients
from trait_service.engine.buffers import NO_ROW, VectorBank
from trait_service.engine.direction_sets import DirectionSet
from trait_service.engine.gates import (
    FIRST_SELECTOR_BIT,
    GATE,
    GATE_SHIFT,
    NO_GATE,
    SELECTOR_SHIFT,
    TOKEN,
    Acts,
    GateRecord,
    gate_array,
    positions_acted,
    slots_of,
)
from trait_service.engine.projection_rows import ProjectionRows
from trait_service.engine.reply_selector import NO_SELECTORS, ReplySelector, Selectors, selectors_of
from trait_service.engine.sites import Sites
from trait_service.engine.spec import BoundHit, CaptureSpec, MonitorSpec, RequestReport, RequestSpec, TermSpec
from trait_service.engine.spool import Spool

TERM = np.dtype(
    [
        ("layer", np.int64),
        ("k", np.int64),
        ("bank_row", np.int64),
        ("mode", np.int64),
        ("a", np.float32),
        ("b", np.float32),
        ("start", np.int64),
        ("stop", np.int64),
        ("step", np.int64),
    ]
)
"""One term of one request on one interval of its scope, as the operation reads it: `k` of them act on the layer before it;
layer is its site, mode, a and b are as in `arithmetic`, its gate and selector as in `gates`; it touches absolute positions `start`,
`start + step`, ... below `stop`."""


MAX_POOL_INTERVALS = 16
"""Intervals of all pools of one request."""


@dataclass
class LiveRequest:
    """A steered, captured or monitored request, from its first step until it leaves the engine.

    Args:
        spec: The request's spec.
        n_prompt: Length of its original prompt.
        completion: Which of the prompt's completions it is.
        terms: `(n_terms,)` of `TERM`.
        gates: `(n_gates,)` of `GATE`.
        acts: For each term of the spec, where it may act.
        selectors: Selectors of its reply.
        marker_row: Its row of `ReplyScopes`.
        pools: Disjoint intervals of each pool.
        captured_layers: Sites of its pools, as `Sites` numbers them.
        capture_rows: Row of each pool.
        spool: File for every position of its one pool, in place of a sum.
        lens_layers: Sites that its lens reads; its one pool holds their streams for the length of a step.
        monitored: Its monitored directions; None: nothing is monitored.
        monitored_from: First absolute position that is projected.
        projections: Every computed position from there on, once and in order.
        bound_hit: The first bound that a generated position crossed.
        first_computed: Position of the first token that went through the model; earlier positions came from the cache.
        computed_to: One past the highest position that went through the model: each position counts once, whatever
            is preempted and computed again.
        error: Reason why it cannot be steered as asked.
        collected: Its result was fetched already; its remaining work in the engine is ignored.
    """

    spec: RequestSpec
    n_prompt: int
    completion: int = 0
    terms: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=TERM))
    gates: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=GATE))
    acts: Sequence[Acts] = ()
    selectors: Selectors = NO_SELECTORS
    marker_row: int = NO_ROW
    pools: list[list[Interval]] = field(default_factory=list)
    captured_layers: list[int] = field(default_factory=list)
    capture_rows: list[int] = field(default_factory=list)
    spool: Spool | None = None
    lens_layers: list[int] = field(default_factory=list)
    monitored: DirectionSet | None = None
    monitored_from: int = 0
    bound_hit: BoundHit | None = None
    first_computed: int = 0
    computed_to: int = 0
    error: str | None = None
    collected: bool = False

    @cached_property
    def projections(self) -> ProjectionRows:
        """Its projections so far."""
        return ProjectionRows(0 if self.monitored is None else len(self.monitored))

    @property
    def top_k(self) -> int:
        """Tokens that its lens gives for each layer; 0 without a lens."""
        return 0 if self.spec.lens is None else self.spec.lens.top_k

    @cached_property
    def guesses(self) -> ProjectionRows:
        """Readings of its lens so far: a row of `(n_layers, 2, top_k)` numbers, token ids and log-probabilities, for each position."""
        return ProjectionRows(2 * len(self.lens_layers) * self.top_k)

    @cached_property
    def gate_record(self) -> GateRecord:
        """Where its gates were open and its selectors held so far."""
        return GateRecord(self.first_computed)

    @property
    def reads_words(self) -> bool:
        """True if its terms depend on the words of its tokens: it has gates or selectors."""
        return len(self.gates) > 0 or bool(self.selectors)

    @cached_property
    def holds_number(self) -> bool:
        """True if a gate holds a number in the request's row."""
        return bool((self.gates["hold"] != TOKEN).any())

    @cached_property
    def has_bounds(self) -> bool:
        """True if a monitored direction has a bound."""
        return self.spec.monitor is not None and self.spec.monitor.has_bounds

    def stopped_before(self, position: int) -> bool:
        """True if a bound that stops was crossed below a position."""
        hit = self.bound_hit
        return hit is not None and hit.stop and hit.position < position

    def limit(self, n_generated: int | None) -> int:
        """One past the last position whose token is part of the text; None if all computed positions are.

        The engine computes a step before it knows that the last one ended the text.
        """
        return UNBOUNDED if n_generated is None else self.n_prompt + max(n_generated - 1, 0)

    def report(self, limit: int = UNBOUNDED) -> RequestReport:
        """The report of the positions so far that are below a limit."""
        if self.error is not None:
            return RequestReport(key=self.spec.key, n_prompt=self.n_prompt, error=self.error)
        computed_to, hit, n_prompt = min(self.computed_to, limit), self.bound_hit, self.n_prompt
        acted, some = positions_acted(self.acts, self.gate_record, computed_to)
        counts = {each: (int(held[:n_prompt].sum()), int(held[n_prompt:].sum())) for each, held in acted.items()}
        return RequestReport(
            key=self.spec.key,
            n_prompt=n_prompt,
            steered_prompt=int(some[:n_prompt].sum()),
            steered_generated=int(some[n_prompt:].sum()),
            steered_cached=int(some[: min(n_prompt, self.first_computed)].sum()),
            acted=tuple(counts[each] for each in self.acts),
            bound_hits=() if hit is None or hit.position >= limit else (hit,),
        )

    def projections_between(self, skipped: int, limit: int = UNBOUNDED) -> torch.Tensor:
        """`(n_positions, n_columns)` float32, without the first ones that are projected, up to a limit."""
        return torch.from_numpy(self.projections.view(skipped, max(limit - self.monitored_from, 0)))

    def guesses_between(self, skipped: int, limit: int = UNBOUNDED) -> torch.Tensor:
        """`(n_positions, n_layers * 2 * top_k)` float32, without the first ones that its lens has read, up to a limit."""
        return torch.from_numpy(self.guesses.view(skipped, max(limit - (self.n_prompt - 1), 0)))

    def note_projections(self, values: np.ndarray, first_position: int) -> None:
        """Keep a step's projections and look at the bounds.

        Args:
            values: `(n_tokens, n_columns)` float32.
            first_position: Absolute position of the first of them.
        """
        self.projections.append(values)
        monitor = self.spec.monitor
        if self.bound_hit is not None or monitor is None or not self.has_bounds:
            return
        generating = max(self.n_prompt - 1 - first_position, 0)
        crossing = monitor.columns.first_crossing(values[generating:])
        if crossing is not None:
            row, bound = crossing[0] + generating, crossing[1]
            column = int(monitor.columns.bounded[bound])
            self.bound_hit = BoundHit(
                self.completion,
                column=column,
                position=first_position + row,
                value=float(values[row, column]),
                stop=bool(monitor.columns.stop[bound]),
            )


class Terms(NamedTuple):
    """A request's terms, gates and selectors, as `LiveRequest` keeps them."""

    terms: np.ndarray
    gates: np.ndarray
    acts: tuple[Acts, ...]
    selectors: Selectors


def term_arrays(
    terms: Sequence[TermSpec],
    n_prompt: int,
    first_computed: int,
    sites: Sites,
    terms_per_layer: int,
    bank: VectorBank,
) -> Terms:
    """A request's terms, gates and selectors; one of `TERM` for each interval of a term's scope, and one for its reply.

    Raises:
        SteeringFailedError: A site the engine lacks, a direction that is not in the bank, too many terms on a layer, too many
            gates or selectors, or positions that a gate needs came from the prefix cache.
        InvalidRequestError: A scope cannot be told yet.
    """
    rows, acts, slots, bits = [], [], slots_of(terms), _selector_bits(terms)
    used: dict[int, int] = defaultdict(int)
    scope: object = None
    intervals: tuple[Interval, ...] = ()
    for term in terms:
        layer = sites.of(term.at, term.layer)
        mode, a, b = coefficients(term)
        slot = NO_GATE if term.when is None else slots[term.when]
        if term.scope != scope:  # most requests have one scope on all layers
            scope, intervals = term.scope, tuple(term.intervals(n_prompt))
        mode |= slot + 1 << GATE_SHIFT
        places = [(interval, mode) for interval in intervals if interval]
        if term.reply is None:
            acts.append(Acts(intervals, slot))
        else:
            bit = bits[term.reply]
            acts.append(Acts(intervals, slot, term.reply.interval, bit))
            places.append((term.reply.interval, mode | bit + 1 << SELECTOR_SHIFT))
        for interval, how in places:
            row = bank.row(term.direction)
            rows.append((layer, used[layer], row, how, a, b, *interval))
            used[layer] += 1
    for layer, n in used.items():
        if n > terms_per_layer:
            raise SteeringFailedError(
                f"{n} terms act on {sites.name(layer)}, each interval of a scope counted; at most {terms_per_layer}: start the service "
                "with a larger --terms-per-layer"
            )
    if any(selector.reply.first < first_computed for selector in bits):
        raise SteeringFailedError(
            "tokens of the reply that a scope depends on were read from the prefix cache: set skip_reading_prefix_cache"
        )
    gates = gate_array(slots, acts, n_prompt, first_computed, bank)
    return Terms(np.array(rows, dtype=TERM), gates, tuple(acts), selectors_of(bits))


def _selector_bits(terms: Sequence[TermSpec]) -> dict[ReplySelector, int]:
    """The bit of each distinct selector of the reply."""
    found = dict.fromkeys(term.reply for term in terms if term.reply is not None)
    return {selector: FIRST_SELECTOR_BIT + i for i, selector in enumerate(found)}


def pool_intervals(capture: CaptureSpec, n_prompt: int, first_computed: int) -> list[list[Interval]]:
    """Disjoint intervals of each pool.

    Raises:
        SteeringFailedError: A pool holds positions that came from the prefix cache, or the pools have too many intervals.
        InvalidRequestError: A pool cannot be told yet.
    """
    pools = capture.intervals(n_prompt)
    for name, intervals in zip(capture.positions, pools, strict=True):
        if any(each.below(first_computed) for each in intervals):
            raise SteeringFailedError(
                f"positions {name} were read from the prefix cache: set skip_reading_prefix_cache"
            )
    if (n := sum(map(len, pools))) > MAX_POOL_INTERVALS:
        raise SteeringFailedError(f"the positions come to {n} intervals; at most {MAX_POOL_INTERVALS} in one request")
    return pools


def first_monitored(monitor: MonitorSpec, n_prompt: int, first_computed: int) -> int:
    """The first absolute position that a request projects.

    Raises:
        SteeringFailedError: A prompt that came from the cache.
    """
    if monitor.prompt and first_computed > 0:
        raise SteeringFailedError("prompt positions were read from the prefix cache: set skip_reading_prefix_cache")
    return 0 if monitor.prompt else n_prompt - 1


def completion_of(request_id: str, n: int) -> int:
    """Index of a request among its prompt's `n` completions; vLLM writes it before each id."""
    index, _, _ = request_id.partition("_")
    return int(index) if n > 1 and index.isdigit() else 0
