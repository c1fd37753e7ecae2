"""Selectors as positions of one prompt, which its tokens tell, and as selectors of the reply that is generated after it.

In the prompt `tokens[...]` are the tokens that spell a text, as in any text that is given. In the reply they are the token whose
text it is: nobody knows whether several tokens will spell it before the last of them is there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from trait_core.errors import InvalidRequestError
from trait_core.intervals import UNBOUNDED, Interval, disjoint
from trait_core.positions import MAX_ITEMS, NOWHERE, Positions, Slice, TokenText

from trait_service.engine.reply_selector import MAX_SELECTORS, ReplyItem, ReplySelector, ReplyStart
from trait_service.engine.spec import TermSpec
from trait_service.resolving.landmarks import REASONING_PARTS, Finder, is_opened, named, spelt
from trait_service.resolving.monitoring import TokenTexts

PARAM = "steering.terms"

TurnSpans = Sequence[tuple[int, int]]
"""Absolute `[start, stop)` of each turn of a chat; the last one is the reply's."""


@dataclass(frozen=True)
class Placed:
    """A selector of one prompt and the reply that follows.

    Args:
        known: Positions that the prompt tells.
        reply: Those that the reply will tell; None: none.
    """

    known: Positions
    reply: ReplySelector | None


class Placer:
    """Places selectors.

    Args:
        finder: Knows the model's markers of reasoning.
        decode: Text of token ids, special ones included.
        encode: Token ids of a text, without any that the tokenizer adds.
    """

    def __init__(self, finder: Finder, decode: Callable[[list[int]], str], encode: Callable[[str], list[int]]) -> None:
        self._finder = finder
        self._decode = decode
        self._encode = encode

    def place(self, terms: Sequence[TermSpec], ids: Sequence[int], turns: TurnSpans) -> list[TermSpec]:
        """The terms with scopes that do not depend on tokens any more.

        Args:
            terms: As they are resolved.
            ids: Tokens of the prompt.
            turns: Its turns; none of a prompt that is not a chat.

        Raises:
            InvalidRequestError: A scope cannot be told, selects nothing, or comes to too much.
        """
        all_scopes = dict.fromkeys(term.scope for term in terms if isinstance(term.scope, Positions))
        scopes = [scope for scope in all_scopes if scope.needs_tokens]
        found = dict(zip(scopes, self.placed(scopes, ids, turns, PARAM), strict=True))
        if (n := len({each.reply for each in found.values()} - {None})) > MAX_SELECTORS:
            raise InvalidRequestError(
                f"{n} different scopes depend on generated tokens; at most {MAX_SELECTORS} in one request", param=PARAM
            )
        return [
            term.model_copy(update={"scope": found[term.scope].known, "reply": found[term.scope].reply})
            if isinstance(term.scope, Positions) and term.scope in found
            else term
            for term in terms
        ]

    def placed(self, selectors: Sequence[Positions], ids: Sequence[int], turns: TurnSpans, param: str) -> list[Placed]:
        """Selectors in one prompt; `param` is the field that holds them, the rest as for `place`.

        Raises:
            InvalidRequestError: As `place`.
        """
        prompt = _Prompt(ids, turns, self._finder, self._decode)
        try:
            return [self._placed(each, prompt) for each in selectors]
        except InvalidRequestError as error:
            raise InvalidRequestError(str(error), param=param) from error

    def _placed(self, positions: Positions, prompt: "_Prompt") -> Placed:
        self._finder.check([positions])
        known = disjoint(*(prompt.known(items) for items in (positions.select, positions.without)))
        after, never = (list(prompt.after(items)) for items in (positions.select, positions.without))
        left = disjoint([Interval(prompt.n, UNBOUNDED)], filter(None, never))
        reply = None
        if not left or not after:
            pass
        elif all(after) and all(never):
            known = disjoint([*known, *disjoint(filter(None, after), filter(None, never))])
        else:
            select, without = (tuple(self._items(items, prompt)) for items in (positions.select, positions.without))
            if select:
                reply = ReplySelector(reply=self._start(positions, prompt), select=select, without=without)
        if not known and reply is None:
            raise InvalidRequestError(f"positions {positions} select nothing: the prompt has {prompt.n} tokens")
        if len(known) > MAX_ITEMS:
            raise InvalidRequestError(
                f"positions {positions} are at {len(known)} places of the prompt; at most {MAX_ITEMS}: to take those of the reply "
                f"alone, write {positions}{', ' if positions.without else ' except '}prompt[:]"
            )
        return Placed(Positions(tuple(map(Slice.whole, known)) or (NOWHERE,)), reply)

    def _items(self, items: Iterable[Slice | TokenText], prompt: "_Prompt") -> Iterator[ReplyItem]:
        """The items that may hold positions of the reply, as the device reads them."""
        for item in items:
            if isinstance(item, TokenText):
                yield ReplyItem(token=self._token(item.text, f"positions {item}"))
            elif item.part in REASONING_PARTS:
                start, stop, step = item.inside(0, None)
                if start < stop:
                    yield ReplyItem(
                        part="thinking" if item.part == "thinking" else "answer", start=start, stop=stop, step=step
                    )
            else:
                for start, stop, step in filter(None, prompt.after([item])):
                    yield ReplyItem(
                        start=start - prompt.n, stop=stop if stop == UNBOUNDED else stop - prompt.n, step=step
                    )

    def _start(self, positions: Positions, prompt: "_Prompt") -> ReplyStart:
        markers = self._finder.markers
        if markers is None or not named([positions], REASONING_PARTS):
            return ReplyStart(first=prompt.n)
        begin, end = (self._token(marker, f"positions {positions}: the marker of reasoning") for marker in markers)
        return ReplyStart(first=prompt.n, opened=is_opened(prompt.texts, markers), begin=begin, end=end)

    def _token(self, text: str, what: str) -> int:
        ids = self._encode(text)
        if len(ids) != 1 or self._decode(ids) != text:
            raise InvalidRequestError(
                f"{what} {text!r} is {len(ids)} tokens: while a reply is generated only a text of one token is found in it. In a "
                "prompt several are: take the reply out with `except response[:]`"
            )
        return ids[0]


@dataclass(frozen=True)
class _Prompt:
    ids: Sequence[int]
    turns: TurnSpans
    finder: Finder
    decode: Callable[[list[int]], str]

    @property
    def n(self) -> int:
        return len(self.ids)

    @cached_property
    def texts(self) -> list[str]:
        return TokenTexts(self.decode).feed(self.ids)

    def known(self, items: Iterable[Slice | TokenText]) -> Iterator[Interval]:
        """Positions of the prompt."""
        for item in items:
            if isinstance(item, TokenText):
                yield from (Interval(*span) for span in spelt(self.texts, item.text))
            elif item.part == "prompt":
                yield item.inside(0, self.n)
            elif item.part in ("all", "turn"):
                interval = self._absolute(item)
                yield interval._replace(stop=min(interval.stop, self.n))

    def after(self, items: Iterable[Slice | TokenText]) -> Iterator[Interval | None]:
        """Absolute positions of the reply; None for those that depend on its tokens."""
        for item in items:
            if isinstance(item, TokenText) or item.part in REASONING_PARTS:
                yield None
            elif item.part != "prompt":
                start, stop, step = self._absolute(item)
                first = start if start >= self.n else start + -(-(self.n - start) // step) * step
                if first < stop:
                    yield Interval(first, stop, step)

    def _absolute(self, item: Slice) -> Interval:
        if item.part != "turn":
            return item.inside(self.n if item.part == "response" else 0, None)
        if not self.turns:
            raise InvalidRequestError(f"positions {item} need a chat: send messages")
        index = item.start or 0
        if not -len(self.turns) <= index < len(self.turns):
            raise InvalidRequestError(
                f"positions {item}: the chat has {len(self.turns)} turns, that of the reply included"
            )
        return Interval(*self.turns[index])
