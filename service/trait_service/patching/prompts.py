"""The two prompts of a patching as tokens, with their spans and the first tokens of both answers."""

from collections.abc import Sequence
from typing import NamedTuple

from trait_core.errors import InvalidRequestError
from trait_core.positions import Positions
from trait_core.schema import PatchPrompt, PatchRequest

from trait_service.patching.alignment import Bounds
from trait_service.reading.tokenized import InputTokenizer, all_together
from trait_service.resolving.landmarks import spelt
from trait_service.resolving.monitoring import Decode, TokenTexts


class Tokenized(NamedTuple):
    """One prompt.

    Attributes:
        ids: Its tokens.
        texts: The text of each.
        span: Tokens of its span; None: it has none.
        answers: First token of the source's answer and of the target's, as they follow it.
    """

    ids: list[int]
    texts: list[str]
    span: Bounds | None
    answers: tuple[int, int]


class PromptTokenizer:
    """Reads the prompts of a patching.

    Args:
        inputs: Renders and tokenizes a text or a chat.
        decode: Text of token ids, special ones included.
        longest: Tokens of a prompt, at most.
    """

    def __init__(self, inputs: InputTokenizer, decode: Decode, longest: int) -> None:
        self._inputs = inputs
        self._decode = decode
        self._longest = longest

    async def read(self, request: PatchRequest, base: str | None) -> tuple[Tokenized, Tokenized]:
        """Source and target.

        Raises:
            InvalidRequestError: A prompt is too long, a span does not occur once, or the answers cannot be compared.
        """
        answers = (request.source.answer, request.target.answer)
        source, target = await all_together(
            [
                self._read_one("source", request.source, answers, base),
                self._read_one("target", request.target, answers, base),
            ]
        )
        if source.answers[0] == source.answers[1]:
            raise InvalidRequestError(
                f"the answers {answers[0][:80]!r} and {answers[1][:80]!r} begin with the same token "
                f"{self.text(source.answers[0])!r}, and the metric compares first tokens: give answers that begin differently",
                param="target.answer",
            )
        if source.answers != target.answers:
            raise InvalidRequestError(
                f"the answers begin with the tokens {list(map(self.text, source.answers))} behind the source, and with "
                f"{list(map(self.text, target.answers))} behind the target: let both prompts end in the same way",
                param="target",
            )
        return source, target

    def text(self, token: int) -> str:
        """The text of one token."""
        return self._decode([token])

    async def _read_one(self, name: str, prompt: PatchPrompt, answers: tuple[str, str], base: str | None) -> Tokenized:
        ids = await self._ids(name, prompt, base)
        if not 0 < len(ids) <= self._longest:
            raise InvalidRequestError(f"the {name} has {len(ids)} tokens; allowed: 1..{self._longest}", param=name)
        first, second = [await self._first_token(name, prompt, answer, ids, base) for answer in answers]
        texts = TokenTexts(self._decode).feed(ids)
        span = None if prompt.span is None else span_in(texts, prompt.span, name)
        return Tokenized(ids, texts, span, (first, second))

    async def _ids(self, name: str, prompt: PatchPrompt, base: str | None, response: str | None = None) -> list[int]:
        try:
            (read,) = await self._inputs.read([prompt.read_as(response)], base)
        except InvalidRequestError as error:
            param = None if error.param is None else error.param.replace("inputs[0]", name, 1)
            raise InvalidRequestError(str(error).replace("inputs[0]", name, 1), param=param) from error
        return read.ids

    async def _first_token(self, name: str, prompt: PatchPrompt, answer: str, ids: list[int], base: str | None) -> int:
        """The first token of an answer as it follows the prompt."""
        if prompt.text is None:
            whole = await self._ids(name, prompt, base, response=answer)
        else:  # as one text: some tokenizers write the first word of a text in another way
            whole = await self._ids(name, prompt.model_copy(update={"text": prompt.text + answer}), base)
        if whole[: len(ids)] != ids or len(whole) == len(ids):
            raise InvalidRequestError(
                f"the answer {answer[:80]!r} does not begin with a token of its own behind the {name}: the tokenizer joins it with "
                "the prompt's end. Begin it with a space, or leave out a space at the end of the prompt",
                param=f"{name}.answer",
            )
        return whole[len(ids)]


def span_in(texts: Sequence[str], span: str, name: str) -> Bounds:
    """`[from, to)` of the tokens that a span touches.

    Args:
        texts: The text of each token.
        span: A part of the text.
        name: The prompt's name, for the message.

    Raises:
        InvalidRequestError: It does not occur, or more than once.
    """
    places = spelt(texts, span)
    if len(places) != 1:
        what = f"occurs {len(places)} times" if places else "does not occur"
        raise InvalidRequestError(
            f"the span {span[:80]!r} {what} in the {name} ({''.join(texts)[-200:]!r}): give a text that occurs once",
            param=f"{name}.span",
        )
    return places[0]


def selected(selector: str, n: int) -> set[int]:
    """Positions of a prompt of `n` tokens that a selector names.

    Raises:
        InvalidRequestError: It names parts that only the turns of a chat, or a reply, have.
    """
    positions = Positions.parse(selector)
    if positions.needs_tokens:
        raise InvalidRequestError(
            f"positions {selector}: positions to patch are written as prompt[...] or all[...]", param="positions"
        )
    return set(positions.indices(n, n))
