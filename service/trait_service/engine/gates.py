"""Gates: the conditions of a request's terms, which are decided on the device in the same forward pass.

A request has a slot for each distinct gate of its terms. For each token of a step the device keeps a word with a bit for
each slot: the gate is open there. Above them is a bit for each selector of its reply (`reply_scopes`). A term's mode holds its
slot and its selector's bit, above those that the arithmetic reads.

`token` is decided when its layer is read. `latch` and `prompt` depend on other positions of the step: on their layer each
position adds to a number that the request's row holds for the slot, and on the next layer, when all have, the word is settled.
The number is an integer, which does not depend on the order: for `latch` `LATCHED` minus the first position past the bound, for
`prompt` the sum of the projections over the prompt, in units of 1 / `SUM_SCALE`. 0 is the start of both.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from trait_core.errors import SteeringFailedError
from trait_core.intervals import UNBOUNDED, Interval
from trait_core.schema import Hold

from trait_service.engine.buffers import VectorBank
from trait_service.engine.spec import GateSpec, TermSpec

HOLDS: tuple[Hold, ...] = ("token", "latch", "prompt")
"""Ways to hold; a gate's kind is the place of its own among them."""

TOKEN, LATCH, PROMPT = range(3)

LATCHED = UNBOUNDED
"""Above every position."""

SUM_SCALE = 1 << 20
"""Parts of a residual unit in the sum over a prompt: as fine as float32 at projections of 8 and more."""

SUM_LIMIT = float(1 << 30)
"""Largest projection that a sum takes as it is, residual units: 2^13 tokens of it fit."""

MAX_GATES = 8
"""Distinct gates of one request."""

GATE_SHIFT, SELECTOR_SHIFT, BIT_MASK = 4, 8, 15
"""Bits of a mode that hold a term's gate, and those that hold its selector: the bit of a token's word plus 1, or 0 for none."""

FIRST_SELECTOR_BIT = MAX_GATES
"""The lowest bit of a token's word that belongs to a selector; those of gates are below."""

NO_GATE = -1

GATE = np.dtype(
    [
        ("slot", np.int64),
        ("layer", np.int64),
        ("bank_row", np.int64),
        ("below", np.int64),
        ("hold", np.int64),
        ("n_prompt", np.int64),
        ("bound", np.float32),
        ("start", np.int64),
        ("stop", np.int64),
    ]
)
"""One gate of one request: open where the projection is above its bound, or below it. It is read at absolute positions `start`
to `stop`."""


class Acts(NamedTuple):
    """The positions at which a term may act, and its gate's slot; `NO_GATE` for none.

    It may also act on `reply`, where the bit `selector` of the token's word is set; `NO_GATE` for nowhere.
    """

    intervals: tuple[Interval, ...]
    slot: int = NO_GATE
    reply: Interval = Interval(0, 0)
    selector: int = NO_GATE


def slots_of(terms: Sequence[TermSpec]) -> dict[GateSpec, int]:
    """The slot of each distinct gate.

    Raises:
        SteeringFailedError: There are more than `MAX_GATES`.
    """
    slots = {
        gate: slot for slot, gate in enumerate(dict.fromkeys(term.when for term in terms if term.when is not None))
    }
    if len(slots) > MAX_GATES:
        raise SteeringFailedError(f"{len(slots)} distinct gates in one request; at most {MAX_GATES}")
    return slots


def gate_array(
    slots: dict[GateSpec, int], acts: Sequence[Acts], n_prompt: int, first_computed: int, bank: VectorBank
) -> np.ndarray:
    """A request's gates, `(n_gates,)` of `GATE`.

    Each is read from the first to the last position of its terms; `latch` and `prompt` from the request's first one.

    Args:
        slots: Gates and their slots.
        acts: Where the request's terms act.
        n_prompt: Length of its prompt.
        first_computed: Positions below came from the prefix cache.
        bank: Directions.

    Raises:
        SteeringFailedError: A direction is not in the bank, or positions that a gate needs came from the cache.
    """
    rows = []
    for gate, slot in slots.items():
        row = bank.row(gate.direction)
        held = [each for term in acts if term.slot == slot for each in (*term.intervals, term.reply) if each]
        if not held:
            continue
        start, stop = min(each.start for each in held), max(each.stop for each in held)
        if gate.hold != "token":
            start = 0
            if first_computed > 0:
                raise SteeringFailedError(
                    f"hold {gate.hold!r} needs every prompt position, and {first_computed} were read from the prefix cache: set "
                    "skip_reading_prefix_cache"
                )
        of_prompt = n_prompt if gate.n_prompt is None else gate.n_prompt
        rows.append(
            (slot, gate.layer, row, gate.above is None, HOLDS.index(gate.hold), of_prompt, gate.bound, start, stop)
        )
    return np.array(rows, dtype=GATE)


class GateRecord:
    """Which gates of a request were open, and which selectors held, position by position.

    Args:
        first: The first absolute position that is recorded.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._parts: list[np.ndarray] = []

    def append(self, words: np.ndarray) -> None:
        """Add the words of the positions that follow, `(n,)` int32: a bit for each slot."""
        self._parts.append(words)

    def open(self, slot: int, stop: int) -> np.ndarray:
        """`(stop,)` bool: the gate was open at the position, or the selector of that bit held; False where that is not known."""
        found = np.zeros(stop, dtype=np.bool_)
        self._parts = [np.concatenate([np.empty(0, dtype=np.int32), *self._parts])]
        words = self._parts[0][: max(stop - self._first, 0)]
        found[self._first : self._first + len(words)] = words >> slot & 1
        return found


def positions_acted(acts: Sequence[Acts], record: GateRecord, stop: int) -> tuple[dict[Acts, np.ndarray], np.ndarray]:
    """Positions below `stop` at which terms acted.

    Returns:
        `(stop,)` bool for each distinct entry, and for at least one of them.
    """
    found: dict[Acts, np.ndarray] = {}
    some = np.zeros(stop, dtype=np.bool_)
    for term in acts:
        if term in found:
            continue
        held = np.zeros(stop, dtype=np.bool_)
        for each in term.intervals:
            held[each.start : each.stop : each.step] = True
        if term.reply:
            held[term.reply.start :] |= record.open(term.selector, stop)[term.reply.start :]
        if term.slot != NO_GATE:
            held &= record.open(term.slot, stop)
        found[term] = held
        some |= held
    return found, some
