"""One live request as the engine side knows it: its intervals, its pools, how far it has come."""

from dataclasses import dataclass, field

from trait_client.errors import SteeringFailedError
from trait_client.positions import UNBOUNDED

from trait_service.engine.arithmetic import coefficients
from trait_service.engine.buffers import TableEntry, VectorBank
from trait_service.engine.spec import RequestReport, RequestSpec, TermSpec


@dataclass
class LiveRequest:
    """A steered or captured request, from its first step until it leaves the engine.

    Args:
        spec: What it asks for.
        n_prompt: Length of its original prompt.
        entries: Its terms for the request table.
        pools: `(start, stop)` of each pool.
        capture_rows: Row of each pool.
        first_computed: Position of the first token that went through the model; what lies before came from the cache.
        computed_to: One past the highest position that went through the model: each position counts once, whatever
            is preempted and computed again.
        error: Why it cannot be steered as asked.
        collected: Its result was fetched already; what it still does in the engine concerns nobody.
    """

    spec: RequestSpec
    n_prompt: int
    entries: list[TableEntry] = field(default_factory=list)
    pools: list[tuple[int, int]] = field(default_factory=list)
    capture_rows: list[int] = field(default_factory=list)
    first_computed: int = 0
    computed_to: int = 0
    error: str | None = None
    collected: bool = False

    def report(self) -> RequestReport:
        """What was done so far."""
        if self.error is not None:
            return RequestReport(key=self.spec.key, n_prompt=self.n_prompt, error=self.error)
        touched = union([(entry.start, entry.stop) for entry in self.entries])
        return RequestReport(
            key=self.spec.key,
            n_prompt=self.n_prompt,
            steered_prompt=overlap(touched, 0, min(self.n_prompt, self.computed_to)),
            steered_generated=overlap(touched, self.n_prompt, self.computed_to),
            steered_cached=overlap(touched, 0, min(self.n_prompt, self.first_computed)),
        )


def entries_of(spec: RequestSpec, n_prompt: int, n_layers: int, bank: VectorBank) -> list[TableEntry]:
    """A request's terms as table entries.

    Raises:
        SteeringFailedError: A layer the model lacks, or a direction that is not in the bank.
    """
    entries = []
    for term in spec.terms:
        if term.layer >= n_layers:
            raise SteeringFailedError(f"layer {term.layer} is out of range: the model has layers 0..{n_layers - 1}")
        start, stop = scope_interval(term, n_prompt)
        entries.append(
            TableEntry(
                layer=term.layer,
                bank_row=bank.row(term.direction),
                numbers=coefficients(term.operation, term.value),
                start=start,
                stop=stop,
                preserve_norm=term.preserve_norm,
            )
        )
    return entries


def scope_interval(term: TermSpec, n_prompt: int) -> tuple[int, int]:
    """Absolute positions `[start, stop)` of a term's scope.

    `generated` starts at the last prompt position, since that one produces the first generated token.
    """
    match term.scope:
        case "all":
            return 0, UNBOUNDED
        case "prompt":
            return 0, n_prompt
        case "generated":
            return n_prompt - 1, UNBOUNDED
        case "last_prompt":
            return n_prompt - 1, n_prompt
        case [start, stop]:
            return start, stop
    raise SteeringFailedError(f"unknown scope {term.scope!r}")


def union(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Disjoint intervals that cover the same positions."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def overlap(intervals: list[tuple[int, int]], start: int, stop: int) -> int:
    """Positions of `[start, stop)` that disjoint intervals cover."""
    return sum(max(0, min(b, stop) - max(a, start)) for a, b in intervals)
