"""Alignment of two prompts by a span of text, and the cells that are patched. Numbers only; no I/O."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trait_core.errors import InvalidRequestError
from trait_core.schema import MAX_PATCH_CELLS, HookPoint, PatchPart
from trait_core.schema.patching import LEAST_DIFFERENCE

Bounds = tuple[int, int]
"""`[from, to)` in tokens."""


class Pair(NamedTuple):
    """A position of the target, and its partner in the source."""

    part: PatchPart
    source: int
    target: int


@dataclass(frozen=True)
class Alignment:
    """Partners of two prompts' positions.

    Attributes:
        pairs: By position of the target.
        source_left_out: Positions of the source without a partner.
        target_left_out: Positions of the target without a partner.
    """

    pairs: list[Pair]
    source_left_out: list[int]
    target_left_out: list[int]


class Unit(NamedTuple):
    """Positions that are patched together."""

    part: PatchPart
    pairs: tuple[Pair, ...]


class Cell(NamedTuple):
    """One unit at one hook point of one layer."""

    unit: Unit
    at: HookPoint
    layer: int


def align(n_source: int, n_target: int, spans: tuple[Bounds, Bounds] | None) -> Alignment:
    """Give positions their partners.

    What is before the span is aligned from the start, the span and what is behind it from their ends. Without spans the
    prompts are aligned one to one, as one part.

    Args:
        n_source: Tokens of the source.
        n_target: Tokens of the target.
        spans: Tokens of the source's span and of the target's; None: there is none.

    Raises:
        InvalidRequestError: Without spans the prompts differ in length.
    """
    if spans is None:
        if n_source != n_target:
            raise InvalidRequestError(
                f"the source has {n_source} tokens and the target {n_target}: give both a span, by which they are aligned",
                param="source.span",
            )
        pairs = [Pair("all", i, i) for i in range(n_source)]
    else:
        source, target = spans
        pairs = [
            *_from_start("before", (0, source[0]), (0, target[0])),
            *_from_end("span", source, target),
            *_from_end("behind", (source[1], n_source), (target[1], n_target)),
        ]
    return Alignment(
        pairs,
        _others(n_source, {pair.source for pair in pairs}),
        _others(n_target, {pair.target for pair in pairs}),
    )


def _from_start(part: PatchPart, source: Bounds, target: Bounds) -> list[Pair]:
    return [Pair(part, i, j) for i, j in zip(range(*source), range(*target), strict=False)]


def _from_end(part: PatchPart, source: Bounds, target: Bounds) -> list[Pair]:
    backwards = zip(reversed(range(*source)), reversed(range(*target)), strict=False)
    return [Pair(part, i, j) for i, j in backwards][::-1]


def _others(n: int, found: Collection[int]) -> list[int]:
    return [i for i in range(n) if i not in found]


def units(pairs: Sequence[Pair], parts: Sequence[PatchPart] | None, most: int) -> list[Unit]:
    """The positions that are patched together.

    Args:
        pairs: Aligned positions that may be patched.
        parts: Parts to patch as a whole; None: each position alone.
        most: Positions of one unit.

    Raises:
        InvalidRequestError: A part is empty, or holds too many positions.
    """
    if parts is None:
        return [Unit(pair.part, (pair,)) for pair in pairs]
    found = []
    for part in dict.fromkeys(parts):
        held = tuple(pair for pair in pairs if part in {pair.part, "all"})
        if not 0 < len(held) <= most:
            raise InvalidRequestError(
                f"the part {part!r} has {len(held)} aligned positions; 1 to {most} are patched together "
                "(--terms-per-layer). Name positions, or patch each position alone",
                param="parts",
            )
        found.append(Unit(part, held))
    return found


def cells(patched: Sequence[Unit], layers: Sequence[int], at: Sequence[HookPoint]) -> list[Cell]:
    """Every unit at every hook point of every layer, by hook point, then by layer.

    Raises:
        InvalidRequestError: No position is left, or there are more cells than `MAX_PATCH_CELLS`.
    """
    if not patched:
        raise InvalidRequestError("no aligned position of the target is to be patched", param="positions")
    n = len(patched) * len(layers) * len(at)
    if n > MAX_PATCH_CELLS:
        raise InvalidRequestError(
            f"{len(patched)} positions x {len(layers)} layers x {len(at)} hook points are {n} cells; at most {MAX_PATCH_CELLS} in "
            "one request: name layers or positions",
            param="layers",
        )
    return [Cell(unit, point, layer) for point in at for layer in layers for unit in patched]


def restored_share(patched: float, source: float, target: float) -> float | None:
    """(patched - target) / (source - target); None if source and target hardly differ.

    Args:
        patched: The metric of the patched run.
        source: The metric of the source.
        target: The metric of the target.
    """
    whole = source - target
    return (patched - target) / whole if abs(whole) >= LEAST_DIFFERENCE else None
