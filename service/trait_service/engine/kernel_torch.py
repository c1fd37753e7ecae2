"""The operation in plain torch: the CPU path, and the reference for the Triton one."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from trait_service.engine.arithmetic import delta
from trait_service.engine.gates import LATCH, LATCHED, SUM_LIMIT, SUM_SCALE


@dataclass(frozen=True)
class Places:
    """Rows of a tensor; also a slice if they are consecutive, since a slice is not copied."""

    index: torch.Tensor
    span: slice | None

    @classmethod
    def of(cls, places: np.ndarray) -> "Places":
        """From `(n,)` int64, n > 0."""
        first = int(places[0])
        following = bool((places == np.arange(first, first + len(places))).all())
        return cls(torch.from_numpy(places), slice(first, first + len(places)) if following else None)

    def pick(self, rows: torch.Tensor) -> torch.Tensor:
        """`(n, d)`: a view if the rows are consecutive, else a copy."""
        return rows[self.span] if self.span is not None else rows.index_select(0, self.index)

    def put(self, rows: torch.Tensor, picked: torch.Tensor) -> None:
        """Write back what was picked and changed."""
        if self.span is None:
            rows.index_copy_(0, self.index, picked)

    def add(self, rows: torch.Tensor, added: torch.Tensor) -> None:
        """Add `(n, d)` of the same dtype to the rows."""
        if self.span is None:
            rows.index_add_(0, self.index, added)
        else:
            rows[self.span].add_(added)

    def stream(self, residual: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
        """`(n, d_model)` float32: the residual stream there."""
        picked = self.pick(residual).to(torch.float32)
        return picked if hidden is None else picked + self.pick(hidden)


@dataclass(frozen=True)
class Terms:
    """One term a token, on one layer.

    Args:
        places: Rows of the `n` tokens.
        bank_row: `(n,)` int64: each token's direction.
        a: `(n, 1)` float32.
        b: `(n, 1)` float32.
        mode: `(n,)` int64.
        additive: All are plain additions; the stream, b and mode are not read.
        gate: `(n,)` int32: the bits of each term's gate and selector in its token's word; None: no term has any.
        added: `(n, d_model)` float32, what additive terms add, if it is reused from step to step; None computes it at each step.
    """

    places: Places
    bank_row: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    mode: torch.Tensor
    additive: bool
    gate: torch.Tensor | None = None
    added: torch.Tensor | None = None

    def acting(self, open_gates: torch.Tensor) -> "Terms | None":
        """The terms without those whose gates are closed or whose selectors do not hold; None if none is left.

        Args:
            open_gates: `(n_tokens,)` int32: the word of each token of the step.
        """
        if self.gate is None:
            return self
        acts = ((self.places.pick(open_gates) & self.gate) == self.gate).nonzero().squeeze(-1)
        if len(acts) == len(self):
            return self
        if not len(acts):
            return None
        return Terms(
            Places(self.places.index[acts], None),
            self.bank_row[acts],
            self.a[acts],
            self.b[acts],
            self.mode[acts],
            self.additive,
            added=None if self.added is None else self.added[acts],
        )

    def __len__(self) -> int:
        return len(self.bank_row)

    def kept(self, bank: torch.Tensor) -> "Terms":
        """The same terms with their sum precomputed, if it does not depend on the step's activations."""
        return replace(self, added=self.work_out(bank)) if self.additive else self

    def work_out(self, bank: torch.Tensor) -> torch.Tensor:
        """`(n, d_model)` float32: what additive terms add."""
        return bank.index_select(0, self.bank_row).mul_(self.a) if self.added is None else self.added


@dataclass(frozen=True)
class Gates:
    """One gate a token, on one layer.

    Args:
        places: Rows of the `n` tokens.
        bank_row: `(n,)` int64: each token's direction.
        bound: `(n,)` float32, residual units.
        below: `(n,)` bool: the gate is open below the bound, not above it.
        bit: Their bit in a token's word.
        held: Their numbers, where other positions decide; None: each token's own projection decides.
    """

    places: Places
    bank_row: torch.Tensor
    bound: torch.Tensor
    below: torch.Tensor
    bit: int
    held: "Held | None" = None


@dataclass(frozen=True)
class Held:
    """The tokens' side of gates that hold a number in their request's row (`gates`).

    Args:
        hold: `LATCH` or `PROMPT`.
        numbers: `(n_rows,)` int64, changed in place: of one slot.
        row: `(n,)` int64: row of each token's request.
        position: `(n,)` int64: absolute position of each token.
        n_prompt: `(n,)` int64: length of each token's prompt.
    """

    hold: int
    numbers: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor
    n_prompt: torch.Tensor


@dataclass(frozen=True)
class Pooled:
    """Tokens and the pools that they go into: slot `slots.index[i]` gets the token at `places.index[i]`."""

    places: Places
    slots: Places


@dataclass(frozen=True)
class Projected:
    """Tokens that monitor the same directions on one layer.

    Args:
        places: Rows of the `n` tokens.
        directions: `(n_directions, d_model)` float32.
        cosine: `(n_directions,)` bool: which of the projections are divided by the stream's norm; None: none of them.
        rows: Rows of the step's values that the tokens have.
        columns: Their columns that the directions have.
    """

    places: Places
    directions: torch.Tensor
    cosine: torch.Tensor | None
    rows: slice
    columns: slice


def read_gates(
    residual: torch.Tensor, hidden: torch.Tensor | None, bank: torch.Tensor, gates: Gates, open_gates: torch.Tensor
) -> None:
    """Decide one gate for each of its tokens. A projection that is not a number opens none.

    Args:
        residual: `(n_tokens, d_model)`.
        hidden: `(n_tokens, d_model)` or None: the other half of the stream.
        bank: `(n_bank_rows, d_model)` float32.
        gates: The tokens and their gates.
        open_gates: `(n_tokens,)` int32, changed in place: the gate's bit of each token's word.
    """
    stream = gates.places.stream(residual, hidden)
    projection = (stream * bank.index_select(0, gates.bank_row)).sum(-1)
    if gates.held is None:
        opens = _past(gates, projection)
    elif gates.held.hold == LATCH:
        opens = _latched(gates.held, _past(gates, projection))
    else:
        opens = _past(gates, _prompt_mean(gates.held, projection)) & (gates.held.position >= gates.held.n_prompt - 1)
    words = gates.places.pick(open_gates)
    open_gates.index_copy_(0, gates.places.index, (words & ~gates.bit) | opens.to(torch.int32) * gates.bit)


def _past(gates: Gates, projection: torch.Tensor) -> torch.Tensor:
    """`(n,)` bool: the projection is past the token's bound."""
    return torch.where(gates.below, projection < gates.bound, projection > gates.bound)


def _latched(held: Held, past: torch.Tensor) -> torch.Tensor:
    """`(n,)` bool: a position up to this one was past the bound, in this step or before."""
    held.numbers.scatter_reduce_(0, held.row, torch.where(past, LATCHED - held.position, 0), "amax")
    return held.position >= LATCHED - held.numbers[held.row]


def _prompt_mean(held: Held, projection: torch.Tensor) -> torch.Tensor:
    """`(n,)` float32: the mean over each token's prompt so far."""
    parts = torch.nan_to_num(projection, nan=0.0).clamp(-SUM_LIMIT, SUM_LIMIT).mul(SUM_SCALE).to(torch.int64)
    held.numbers.index_add_(0, held.row, torch.where(held.position < held.n_prompt, parts, 0))
    return held.numbers[held.row].to(torch.float32) / SUM_SCALE / held.n_prompt


def steer(residual: torch.Tensor, hidden: torch.Tensor | None, bank: torch.Tensor, terms: Terms) -> None:
    """Apply one term to each of its tokens.

    Args:
        residual: `(n_tokens, d_model)`, changed in place.
        hidden: `(n_tokens, d_model)` or None: the other half of the stream.
        bank: `(n_bank_rows, d_model)` float32.
        terms: The tokens and their terms.
    """
    if terms.additive:
        added = terms.work_out(bank)
        if residual.dtype == torch.float32:
            terms.places.add(residual, added)
            return
    else:
        added = delta(
            terms.places.stream(residual, hidden),
            bank.index_select(0, terms.bank_row),
            terms.a.squeeze(-1),
            terms.b.squeeze(-1),
            terms.mode,
        )
    picked = terms.places.pick(residual)
    # The sum is made in float32 and rounded once.
    terms.places.put(residual, picked.copy_(picked.to(torch.float32) + added))


def capture(
    residual: torch.Tensor, hidden: torch.Tensor | None, pooled: Pooled, sums: torch.Tensor, norms: torch.Tensor
) -> None:
    """Add the stream of each token to its pool.

    Args:
        residual: `(n_tokens, d_model)`.
        hidden: `(n_tokens, d_model)` or None: the other half of the stream.
        pooled: Tokens and pools.
        sums: `(n_rows, d_model)` float32, changed in place.
        norms: `(n_rows,)` float32, changed in place.
    """
    stream = pooled.places.stream(residual, hidden)
    norm = torch.linalg.vector_norm(stream, dim=-1)
    if pooled.slots.span is not None:
        sums[pooled.slots.span].add_(stream)
        norms[pooled.slots.span].add_(norm)
    else:
        sums.index_add_(0, pooled.slots.index, stream)
        norms.index_add_(0, pooled.slots.index, norm)


def defer(
    residual: torch.Tensor,
    hidden: torch.Tensor | None,
    pooled: Pooled,
    sums: torch.Tensor,
    norms: torch.Tensor,
    last: torch.Tensor,
    last_norms: torch.Tensor,
) -> None:
    """Let the stream of each token wait, and add to its pool the one that waited until now.

    Args:
        residual: `(n_tokens, d_model)`.
        hidden: `(n_tokens, d_model)` or None: the other half of the stream.
        pooled: Tokens and pools; no pool twice.
        sums: `(n_rows, d_model)` float32, changed in place.
        norms: `(n_rows,)` float32, changed in place.
        last: As `sums`: what waits, changed in place.
        last_norms: As `norms`: what waits, changed in place.
    """
    stream = pooled.places.stream(residual, hidden)
    slots = pooled.slots.index
    sums.index_add_(0, slots, last.index_select(0, slots))
    norms.index_add_(0, slots, last_norms.index_select(0, slots))
    last.index_copy_(0, slots, stream)
    last_norms.index_copy_(0, slots, torch.linalg.vector_norm(stream, dim=-1))


def monitor(residual: torch.Tensor, hidden: torch.Tensor | None, projected: Projected, values: torch.Tensor) -> None:
    """Write the projections of tokens on their directions, as one matrix product.

    Args:
        residual: `(n_tokens, d_model)`.
        hidden: `(n_tokens, d_model)` or None: the other half of the stream.
        projected: Tokens and directions.
        values: `(n_monitored_tokens, n_directions)` float32, changed in place.
    """
    stream = projected.places.stream(residual, hidden)
    products = stream @ projected.directions.T
    if projected.cosine is not None:
        norms = torch.linalg.vector_norm(stream, dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        products = torch.where(projected.cosine, products / norms, products)
    values[projected.rows, projected.columns] = products
