"""Scenarios split into those that directions are fitted on and those that they are tested on."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from trait_core.errors import InvalidRequestError

MIN_SIDE = 2
"""Least number of scenarios on each side of the split: a single one has no spread."""

Groups = tuple[Sequence[Hashable], Sequence[Hashable]]
"""The group of each scenario, positive and negative side; a group is wholly fitted on, or wholly tested on."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """The scenarios of one part of a split; for pairs, the two arrays are equal.

    Args:
        positive: Indices into the positive side, ascending.
        negative: Indices into the negative side, ascending.
    """

    positive: Indices
    negative: Indices

    @classmethod
    def of_pairs(cls, pairs: Indices) -> "Part":
        """The part with these pairs."""
        return cls(pairs, pairs)


@dataclass(frozen=True)
class Split:
    """Scenarios to fit on and scenarios to test on; both replies of a pair are in the same part.

    Args:
        train: The scenarios to fit on.
        held_out: The others.
        seed: Seed of the split, and of random methods that are fitted on it.
    """

    train: Part
    held_out: Part
    seed: int = 0


def split_scenarios(n: int, held_out: float, seed: int) -> Split:
    """Hold out a seeded random part of n pairs, as `split_sides` does.

    Raises:
        InvalidRequestError: Fewer than 2 pairs would be left in one part.
    """
    return split_sides((range(n), range(n)), held_out, seed)


def split_sides(groups: Groups, held_out: float, seed: int) -> Split:
    """Hold out a seeded random part of each side, the same share of both.

    Groups are taken in random order; one that would exceed a side's share is fitted on. Where that leaves too few scenarios
    in a part, since a few groups hold nearly everything, each scenario is its own group.

    Args:
        groups: The groups; for pairs, both sides have the same ones.
        held_out: Part of each side that no direction is fitted on, above 0 and below 1.
        seed: The same seed gives the same split.

    Returns:
        The split; `round(n * held_out)` of a side's n scenarios are held out, at least 2, or fewer where groups do not fit.

    Raises:
        InvalidRequestError: Fewer than 2 scenarios of a side would be left in one part.
    """
    sizes = [len(side) for side in groups]
    wanted = [max(MIN_SIDE, round(n * held_out)) if 0 < held_out < 1 else 0 for n in sizes]
    if min(wanted) == 0 or min(n - out for n, out in zip(sizes, wanted, strict=True)) < MIN_SIDE:
        raise InvalidRequestError(
            f"held-out {held_out:g} of {min(sizes)} scenarios leaves fewer than {MIN_SIDE} to fit on or to test on: use a part "
            "between 0 and 1 (default 0.25), or write more scenarios",
            param="held_out",
        )
    held = _drawn(groups, wanted, seed)
    if min(map(len, held)) < MIN_SIDE:
        held = _drawn(_single(groups), wanted, seed)
    train = [np.setdiff1d(np.arange(n), side) for n, side in zip(sizes, held, strict=True)]
    return Split(Part(train[0], train[1]), Part(held[0], held[1]), seed)


def _drawn(groups: Groups, wanted: Sequence[int], seed: int) -> list[Indices]:
    """Indices of each side, from whole groups in random order, at most the wanted number of each."""
    members: dict[Hashable, tuple[list[int], list[int]]] = {}
    for side in (0, 1):
        for i, group in enumerate(groups[side]):
            members.setdefault(group, ([], []))[side].append(i)
    both = list(members.values())
    held: tuple[list[int], list[int]] = ([], [])
    for at in np.random.default_rng(seed).permutation(len(both)):
        if all(len(held[side]) + len(both[at][side]) <= wanted[side] for side in (0, 1)):
            held[0].extend(both[at][0])
            held[1].extend(both[at][1])
    return [np.sort(np.array(side, np.int64)) for side in held]


def _single(groups: Groups) -> Groups:
    """Each scenario as its own group; pairs stay together."""
    if tuple(groups[0]) == tuple(groups[1]):
        return range(len(groups[0])), range(len(groups[1]))
    return [(0, i) for i in range(len(groups[0]))], [(1, i) for i in range(len(groups[1]))]
