"""Selectors: token positions, written the same way for steering, capture and monitoring.

    prompt[-4:]   prompt[-1]   response[:8]   response[8::4]   all[4:]   turn[-1]   thinking[:]   answer[:]   tokens["</think>"]

A request's positions are absolute token indices. The prompt is `[0, n_prompt)`; the response is `[n_prompt, n_total)`:
generated tokens, or the tokens of a given reply. Python's slice rules apply inside each part; a step is 1 or more.
`turn[i]` is one turn of a chat as its template renders it, including the header; a reply is the last turn. `thinking` and
`answer` are the two parts of a reply that begins with reasoning. `tokens[...]` are the tokens that spell a text.

Several items with commas between them are their union, and `except` takes positions out:
`prompt[-4:], response[:8] except response[0]`.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Self, cast

from trait_core.errors import InvalidRequestError
from trait_core.intervals import MAX_STEP, UNBOUNDED, Interval, disjoint

Part = Literal["prompt", "response", "all", "turn", "thinking", "answer"]

LOCATED_PARTS = frozenset({"turn", "thinking", "answer", "tokens"})
"""Parts that are found in a text's tokens; the others follow from its lengths."""

REPLY_PARTS = frozenset({"response", "thinking", "answer"})
"""Parts of a reply."""

MAX_SELECTOR = 512
"""Characters of a written selector."""

MAX_ITEMS = 16
"""Items of a selector."""

_SLICE = re.compile(
    r"(prompt|response|all|turn|thinking|answer)\[(?:(-?\d{1,9})|(-?\d{1,9})?:(-?\d{1,9})?(?::(-?\d{1,9})?)?)\]"
)
_TOKENS = re.compile(r'tokens\[("(?:[^"\\]|\\.)+")\]')
_UNION, _EXCEPT = re.compile(r", *"), re.compile(r" +except +")

HOW_TO_WRITE = (
    "write prompt[-4:], prompt[-1], response[:8], response[8::4], all[4:], turn[-1], thinking[:], answer[:] or "
    'tokens["</think>"]; commas between several make their union, and `except` takes positions out: '
    "all[:] except all[:4]"
)


@dataclass(frozen=True)
class Slice:
    """A slice of one part of a request's positions.

    Args:
        part: The part that is sliced.
        start: First index inside the part; negative counts from its end; None is its beginning. The index of a turn.
        stop: One past the last index; negative counts from the end; None is the end.
        step: Distance between two positions, 1 or more.
    """

    part: Part
    start: int | None
    stop: int | None
    step: int = 1

    @classmethod
    def whole(cls, interval: Interval) -> Self:
        """Absolute positions as a slice of the whole sequence."""
        start, stop, step = interval
        return cls("all", start, None if stop == UNBOUNDED else stop, step)

    def inside(self, base: int, end: int | None) -> Interval:
        """Absolute positions, of a part that begins at `base` and ends at `end`; None: its end is not known yet.

        Raises:
            InvalidRequestError: A negative index into a part whose end is not known yet.
        """
        start = base if self.start is None else self._absolute(self.start, base, end)
        if self.stop is not None:  # noqa: SIM108 - two cases, two lines
            stop = self._absolute(self.stop, base, end)
        else:
            stop = UNBOUNDED if end is None else end
        return Interval(start, stop if end is None else min(stop, end), self.step)

    def _absolute(self, index: int, base: int, end: int | None) -> int:
        if index >= 0:
            return min(base + index, UNBOUNDED)
        if end is None:
            raise InvalidRequestError(
                f"positions {self} count from the end of a response that is still being generated: "
                "use an index of 0 or more, or give the response's text",
                param="positions",
            )
        return max(base, end + index)

    def __str__(self) -> str:
        if self.start is not None and (
            (self.stop is not None and self.stop == self.start + 1) or (self.start == -1 and self.stop is None)
        ):
            return f"{self.part}[{self.start}]"
        start = "" if self.start is None else self.start
        stop = "" if self.stop is None else self.stop
        return f"{self.part}[{start}:{stop}{f':{self.step}' if self.step > 1 else ''}]"


NOWHERE = Slice("all", 0, 0)
"""No position at all: what is left of a part that a text does not have."""


@dataclass(frozen=True)
class TokenText:
    """Positions of the tokens that spell a text.

    Args:
        text: For example `</think>`.
    """

    text: str
    part: Literal["tokens"] = "tokens"

    def __str__(self) -> str:
        return f"tokens[{json.dumps(self.text, ensure_ascii=False)}]"


@dataclass(frozen=True)
class Landmarks:
    """Places in one text that its lengths do not tell.

    Args:
        turns: Absolute `[start, stop)` of each turn of the chat.
        thinking: Absolute `[start, stop)` of the reasoning, without its markers; None: it was not looked for.
        answer: The same for what follows it.
        tokens: Text -> absolute `[start, stop)` of each place where tokens spell it.
        response: Absolute `[start, stop)` of the reply of a text that is given whole; None: it follows from the lengths.
    """

    turns: Sequence[tuple[int, int]] = ()
    thinking: tuple[int, int] | None = None
    answer: tuple[int, int] | None = None
    tokens: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    response: tuple[int, int] | None = None


@dataclass(frozen=True)
class Positions:
    """A selector: a set of a request's token positions.

    Args:
        select: Their union is taken.
        without: Positions that are taken out of it.
    """

    select: tuple[Slice | TokenText, ...]
    without: tuple[Slice | TokenText, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the written form.

        Raises:
            InvalidRequestError: `text` is not a selector.
        """
        return cast("Self", _parsed(text))

    @classmethod
    def of(cls, value: object) -> Self:
        """Read a selector as it may stand in JSON: text, a list of texts, or `{"select": ..., "except": ...}`.

        Raises:
            InvalidRequestError: `value` is not a selector.
        """
        if isinstance(value, Mapping):
            known = {"select", "except", "tokens"}
            if not value or set(value) - known or not {"select", "tokens"} & set(value):
                raise InvalidRequestError(
                    f"positions {str(value)[:80]} are not understood: an object has select or tokens, and may have except",
                    param="positions",
                )
            return cls.parse(_joined(value))
        return cls.parse(_listed(value))

    @property
    def items(self) -> tuple[Slice | TokenText, ...]:
        """All items, those taken out included."""
        return (*self.select, *self.without)

    @property
    def parts(self) -> frozenset[str]:
        """Names of the parts whose positions are taken."""
        return frozenset(item.part for item in self.select)

    @property
    def needs_tokens(self) -> bool:
        """True if some positions can be found in a text's tokens only: see `located`."""
        return any(item.part in LOCATED_PARTS for item in self.items)

    def intervals(self, n_prompt: int, n_total: int | None) -> list[Interval]:
        """Absolute positions as disjoint intervals, ascending by their start; none if no position is selected.

        Args:
            n_prompt: Tokens of the prompt.
            n_total: Tokens of the sequence; None while the response is still being generated.

        Raises:
            InvalidRequestError: A negative index into a response whose end is not known yet, or a part that
                is found in a text's tokens only.
        """
        return list(_intervals(self, n_prompt, n_total))

    def indices(self, n_prompt: int, n_total: int) -> list[int]:
        """Absolute positions in ascending order; as `intervals`, for a sequence whose length is known."""
        return sorted(at for each in self.intervals(n_prompt, n_total) for at in range(*each))

    def located(self, places: Landmarks) -> "Positions":
        """The same positions, without parts that are found in a text's tokens only.

        Args:
            places: Where they are.

        Raises:
            InvalidRequestError: The text has no such turn, or a part was not looked for.
        """
        if not self.needs_tokens and places.response is None:
            return self
        select, without = (
            tuple(found for item in items for found in _located(item, places)) for items in (self.select, self.without)
        )
        if len(select) + len(without) > MAX_ITEMS:
            raise InvalidRequestError(
                f"positions {self} are at {len(select) + len(without)} places of the text; at most {MAX_ITEMS}",
                param="positions",
            )
        return Positions(select or (NOWHERE,), without)

    def __str__(self) -> str:
        union = ", ".join(map(str, self.select))
        return f"{union} except {', '.join(map(str, self.without))}" if self.without else union


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Positions:
    if len(text) > MAX_SELECTOR:
        raise InvalidRequestError(
            f"positions {text[:80]!r}... are {len(text)} characters long; at most {MAX_SELECTOR}", param="positions"
        )
    select: list[Slice | TokenText] = []
    without: list[Slice | TokenText] = []
    items, at = select, 0
    while True:
        item, at = _item(text, at)
        items.append(item)
        if at == len(text):
            break
        if found := _UNION.match(text, at):
            at = found.end()
        elif items is select and (found := _EXCEPT.match(text, at)):
            items, at = without, found.end()
        else:
            raise _not_understood(text)
    if len(select) + len(without) > MAX_ITEMS:
        raise InvalidRequestError(
            f"positions {text[:80]!r} have {len(select) + len(without)} items; at most {MAX_ITEMS}", param="positions"
        )
    return Positions(tuple(select), tuple(without))


def _item(text: str, at: int) -> tuple[Slice | TokenText, int]:
    """The item that begins at a character, and the character after it."""
    if spelt := _TOKENS.match(text, at):
        try:
            word = str(json.loads(spelt.group(1)))
            word.encode()  # half of a surrogate pair is not text
        except ValueError:
            raise _not_understood(text) from None
        return TokenText(word), spelt.end()
    found = _SLICE.match(text, at)
    if found is None:
        raise _not_understood(text)
    index, start, stop, step = found.group(2, 3, 4, 5)
    part = cast("Part", found.group(1))
    if part == "turn" and index is None:
        raise InvalidRequestError(f"positions {text[:80]!r}: a turn has an index, such as turn[-1]", param="positions")
    if index is not None:
        first = int(index)
        return Slice(part, first, None if first == -1 else first + 1), found.end()
    if step and not 1 <= int(step) <= MAX_STEP:
        raise InvalidRequestError(
            f"positions {text[:80]!r}: the step is {step}; allowed: 1..{MAX_STEP}", param="positions"
        )
    taken = Slice(part, int(start) if start else None, int(stop) if stop else None, int(step) if step else 1)
    return taken, found.end()


def _not_understood(text: str) -> InvalidRequestError:
    return InvalidRequestError(f"positions {text[:80]!r} are not understood: {HOW_TO_WRITE}", param="positions")


def _joined(value: Mapping[str, Any]) -> str:
    """The written form of `{"select": ..., "tokens": ..., "except": ...}`."""
    texts = value.get("tokens", [])
    spelt = [str(TokenText(str(text))) for text in (texts if isinstance(texts, list) else [texts])]
    union = ", ".join([*([_listed(value["select"])] if "select" in value else []), *spelt])
    return f"{union} except {_listed(value['except'])}" if value.get("except") else union


def _listed(value: object) -> str:
    """The written form of a text or of a list of texts."""
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    if not isinstance(value, str):
        raise _not_understood(str(value))
    return value


@lru_cache(maxsize=4096)
def _intervals(positions: Positions, n_prompt: int, n_total: int | None) -> tuple[Interval, ...]:
    return tuple(
        disjoint(_absolute(positions.select, n_prompt, n_total), list(_absolute(positions.without, n_prompt, n_total)))
    )


def _absolute(items: Iterable[Slice | TokenText], n_prompt: int, n_total: int | None) -> Iterable[Interval]:
    for item in items:
        match item.part:
            case "prompt":
                yield item.inside(0, n_prompt)
            case "response":
                yield item.inside(n_prompt, n_total)
            case "all":
                yield item.inside(0, n_total)
            case _:
                raise InvalidRequestError(
                    f"positions {item} are found in a text's tokens, which are not known here", param="positions"
                )


def _located(item: Slice | TokenText, places: Landmarks) -> list[Slice | TokenText]:
    """One item as slices of the whole sequence."""
    if item.part == "response" and places.response is not None:
        return [Slice.whole(item.inside(*places.response))]
    if item.part not in LOCATED_PARTS:
        return [item]
    if isinstance(item, TokenText):
        return [Slice.whole(Interval(*span)) for span in places.tokens.get(item.text, ())]
    if item.part == "turn":
        index = item.start or 0
        if not -len(places.turns) <= index < len(places.turns):
            raise InvalidRequestError(f"positions {item}: the chat has {len(places.turns)} turns", param="positions")
        return [Slice.whole(Interval(*places.turns[index]))]
    span = places.thinking if item.part == "thinking" else places.answer
    if span is None:
        raise InvalidRequestError(
            f"positions {item}: the model's template and tokenizer have no markers of reasoning", param="positions"
        )
    start, stop = span
    return [Slice.whole(item.inside(start, None if stop == UNBOUNDED else stop))]
