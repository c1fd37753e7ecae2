"""Pairs, and texts of unpaired sides, that are left out because they cannot help: the same on both sides, or there twice.

A text on both sides shows the trait and does not; a scenario that occurs twice is both fitted and tested. Everything else is
used, and a sentence for each reason says what is not.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

MAX_NUMBERS = 12
"""Maximum number of lines that a sentence names."""


@dataclass(frozen=True)
class Selection:
    """The pairs that are used, or the texts of an unpaired side.

    Args:
        kept: Indices of the pairs that are used, ascending.
        shared: Indices of the pairs with a text that is on both sides.
        repeated: Index of a pair -> index of the earlier pair that it repeats on one side.
        each: Name of what is selected: a pair, or a line of one side.
    """

    kept: tuple[int, ...]
    shared: tuple[int, ...]
    repeated: dict[int, int]
    each: str = "pair"

    def sentences(self, where: str, noun: str, numbers: Sequence[int]) -> tuple[str, ...]:
        """One sentence for each reason.

        Args:
            where: The files, for messages.
            noun: Name of what is numbered in them: `line`.
            numbers: Number of each pair in the files.
        """
        found = []
        if self.shared:
            named = _named(noun, [numbers[i] for i in self.shared])
            found.append(f"{where}: {self._counted(self.shared)} left out, with a text that is on both sides: {named}")
        if self.repeated:
            named = _named(noun, [numbers[i] for i in self.repeated])
            first, earlier = next(iter(self.repeated.items()))
            found.append(
                f"{where}: {self._counted(self.repeated)} left out, with a text that occurs before on the same side: {named} "
                f"({noun} {numbers[first]} repeats {noun} {numbers[earlier]})"
            )
        return tuple(found)

    def _counted(self, indices: Sequence[int] | dict[int, int]) -> str:
        return f"1 {self.each} is" if len(indices) == 1 else f"{len(indices)} {self.each}s are"


def select_texts(side: Sequence[Hashable], other: Sequence[Hashable]) -> Selection:
    """Choose the texts of an unpaired side: those that are not on the other side, each once."""
    opposite = set(other)
    seen: dict[Hashable, int] = {}
    kept, shared, repeated = [], [], {}
    for i, text in enumerate(side):
        if text in opposite:
            shared.append(i)
        elif text in seen:
            repeated[i] = seen[text]
        else:
            seen[text] = i
            kept.append(i)
    return Selection(tuple(kept), tuple(shared), repeated, "line")


def select(texts: Sequence[tuple[Hashable, Hashable]], scenarios: Sequence[tuple[Hashable, Hashable]]) -> Selection:
    """Choose the pairs that are used.

    Args:
        texts: The two sides of each pair; a value that is on both sides, in this pair or in any other, leaves its pairs out.
        scenarios: Values that must occur once on each side, for each pair; a later pair that repeats one is left out.
    """
    both = {positive for positive, _ in texts} & {negative for _, negative in texts}
    seen: tuple[dict[Hashable, int], dict[Hashable, int]] = ({}, {})
    kept, shared, repeated = [], [], {}
    for i, (pair, names) in enumerate(zip(texts, scenarios, strict=True)):
        if not both.isdisjoint(pair):
            shared.append(i)
            continue
        earlier = [side[name] for side, name in zip(seen, names, strict=True) if name in side]
        if earlier:
            repeated[i] = earlier[0]
            continue
        for side, name in zip(seen, names, strict=True):
            side[name] = i
        kept.append(i)
    return Selection(tuple(kept), tuple(shared), repeated)


def _named(noun: str, numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"{noun} {numbers[0]}"
    if len(numbers) > MAX_NUMBERS:
        return f"{noun}s {', '.join(map(str, numbers[:MAX_NUMBERS]))} and {len(numbers) - MAX_NUMBERS} more"
    return f"{noun}s {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
