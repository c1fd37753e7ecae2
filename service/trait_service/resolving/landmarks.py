"""Places in a text that only its tokens tell: its reasoning, its answer, and the tokens that spell a text.

Tokens are matched by their text, so that it does not matter whether a marker is one token or several.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Self

from trait_core.errors import InvalidRequestError
from trait_core.intervals import UNBOUNDED
from trait_core.positions import Landmarks, Positions, TokenText

from trait_service.resolving.monitoring import Decode, TokenTexts

KNOWN_MARKERS = (
    "<think> </think>",
    "[THINK] [/THINK]",
    "<seed:think> </seed:think>",
    "<mm:think> </mm:think>",
    "<|START_THINKING|> <|END_THINKING|>",
)
"""Markers of reasoning that are recognised in a tokenizer or a chat template: those that vLLM's parsers of reasoning know."""

TURNS = frozenset({"turn"})
REASONING_PARTS = frozenset({"thinking", "answer"})
LATE_PARTS = REASONING_PARTS | {"tokens"}
"""Parts that are known once a reply is whole."""


class Markers(NamedTuple):
    """Texts around a reply's reasoning."""

    begin: str
    end: str

    @classmethod
    def of(cls, written: str) -> Self:
        """From both with a space between them."""
        return cls(*written.split(" "))

    @classmethod
    def found(cls, tokenizer: Any, template: str | None) -> Self | None:
        """The known markers whose end is a token that was added to the tokenizer, or is written in the template."""
        added = tokenizer.get_added_vocab()
        known = [cls.of(written) for written in KNOWN_MARKERS]
        by_token = [each for each in known if each.end in added]
        by_template = [each for each in known if template is not None and each.end in template]
        return next(iter([*by_token, *by_template]), None)


class Finder:
    """Finds the places that selectors name.

    Args:
        decode: Text of token ids, special ones included.
        markers: The model's markers of reasoning; None: it has none.
    """

    def __init__(self, decode: Decode, markers: Markers | None) -> None:
        self._decode = decode
        self._markers = markers

    @property
    def markers(self) -> Markers | None:
        """The model's markers of reasoning; None: it has none."""
        return self._markers

    def check(self, selectors: Iterable[Positions]) -> None:
        """Refuse parts that no text of this model has.

        Raises:
            InvalidRequestError: A selector names the reasoning or the answer, and the model has no markers.
        """
        for each in selectors:
            if self._markers is None and named([each], REASONING_PARTS):
                raise InvalidRequestError(
                    f"positions {each}: neither this model's tokenizer nor its chat template has known markers of reasoning, such "
                    'as <think> </think>. Start the service with --reasoning-markers "BEGIN END", or read response[:]',
                    param="positions",
                )

    def find(self, ids: Sequence[int], n_prompt: int, selectors: Iterable[Positions]) -> Landmarks:
        """The places in one text that selectors name; turns are not looked for."""
        items = [item for each in selectors for item in each.items]
        words = {item.text for item in items if isinstance(item, TokenText)}
        reasons = self._markers is not None and any(item.part in REASONING_PARTS for item in items)
        if not words and not reasons:
            return Landmarks()
        texts = TokenTexts(self._decode).feed(ids)
        tokens = {word: spelt(texts, word) for word in words}
        if self._markers is None or not reasons:
            return Landmarks(tokens=tokens)
        thinking, answer = reasoning(texts, n_prompt, self._markers)
        return Landmarks(thinking=thinking, answer=answer, tokens=tokens)


@dataclass(frozen=True)
class Turns:
    """The turns of one chat.

    Args:
        beginnings: Tokens of the first message, of the first two, and so on, without the header of a reply. A last message that
            the reply continues is left out.
    """

    beginnings: Sequence[Sequence[int]]

    def ends(self, prompt: Sequence[int]) -> list[int]:
        """One past the last token of each message in a prompt.

        Raises:
            InvalidRequestError: The template does not render turns one after another.
        """
        for ids in self.beginnings:
            if list(prompt[: len(ids)]) != list(ids):
                raise InvalidRequestError(
                    "positions turn[i]: this model's chat template does not render turns one after another",
                    param="positions",
                )
        return [len(ids) for ids in self.beginnings]

    def spans(self, prompt: Sequence[int]) -> list[tuple[int, int]]:
        """Absolute `[start, stop)` of each turn in a prompt; the last one is the reply's, from its header on, and does not end.

        Raises:
            InvalidRequestError: As `ends`.
        """
        return list(pairwise([0, *self.ends(prompt), UNBOUNDED]))


def named(selectors: Iterable[Positions], parts: frozenset[str]) -> bool:
    """True if some selectors name one of these parts."""
    return any(item.part in parts for each in selectors for item in each.items)


def spelt(texts: Sequence[str], word: str) -> list[tuple[int, int]]:
    """Absolute `[start, stop)` of the tokens of each place where a text stands.

    Args:
        texts: Text of each token.
        word: The text; not empty.
    """
    ends = list(accumulate(map(len, texts)))
    whole, places = "".join(texts), []
    at = whole.find(word)
    while at >= 0:
        places.append((bisect_right(ends, at), bisect_left(ends, at + len(word)) + 1))
        at = whole.find(word, at + len(word))
    return places


def reasoning(texts: Sequence[str], n_prompt: int, markers: Markers) -> tuple[tuple[int, int], tuple[int, int]]:
    """Absolute `[start, stop)` of a reply's reasoning and of its answer, without the markers.

    The opening marker may stand in the prompt, through the template, or be left out by the model. If it stands in the prompt, the
    reasoning is all up to the first closing marker. A reply whose reasoning has not ended has no answer; one without markers after
    a prompt that opens none is all answer.

    Args:
        texts: Text of each token, prompt and reply.
        n_prompt: Tokens of the prompt.
        markers: The model's.
    """
    n = len(texts)
    begun = spelt(texts, markers.begin)
    ended = [place for place in spelt(texts, markers.end) if place[0] >= n_prompt]
    opened = is_opened(texts[:n_prompt], markers)
    in_reply = [stop for start, stop in begun if start >= n_prompt and (not ended or stop <= ended[0][0])]
    start = in_reply[0] if in_reply and not opened else n_prompt
    if ended:
        return (start, ended[0][0]), (ended[0][1], n)
    if in_reply or opened:
        return (start, n), (n, n)
    return (n_prompt, n_prompt), (n_prompt, n)


def is_opened(prompt: Sequence[str], markers: Markers) -> bool:
    """True if a prompt, given as the text of each token, opens the reasoning of its reply."""
    begun, closed = ([stop for _, stop in spelt(prompt, marker)] for marker in markers)
    return bool(begun) and (not closed or closed[-1] < begun[-1])
