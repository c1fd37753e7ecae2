"""Score of an answer: the answer token's candidates weighted by probability, or the written number.

The expected score is sum(p_i v_i) / sum(p_i) over the candidates that are numbers of the scale, as in persona vectors
(Chen et al. 2025, arXiv 2507.21509): written numbers take only a handful of round values.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from trait_client.http.replies import TokenLogprob, TopLogprob

_NUMBER = re.compile(r"0|[1-9][0-9]{0,2}")
_PREAMBLE = r"\W*(?:(?:the\s+)?(?:final\s+)?(?:score|rating|answer)(?:\s+is)?\W*)?"
_WRITTEN = re.compile(
    _PREAMBLE
    + r"(?<![-\u2212])(0|[1-9][0-9]{0,2})(?![0-9]|[.,][0-9]|\s*[-\u2013]\s*[0-9]|\s+to\s+[0-9]|\s*[.)]\s+\S)(?:\s*/\s*([0-9]+))?",
    re.IGNORECASE,
)
_THOUGHTS = re.compile(r"\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
"""Thoughts that an endpoint leaves in the text. The opening mark may stand in the prompt."""

_SPACES = str.maketrans({"\u0120": " ", "\u2581": " "})
"""Spaces of byte-level BPE and SentencePiece, for endpoints that return raw tokens."""


@dataclass(frozen=True)
class ExpectedScore:
    """An expected score on the judge's scale.

    Attributes:
        value: Expected value over the candidates that are numbers.
        mass: Total probability of these candidates, 0 to 1.
    """

    value: float
    mass: float


def expected_score(tokens: Sequence[TokenLogprob], largest: int) -> ExpectedScore | None:
    """The expected score at the answer token: the first token, or the number after `Score:` and the like.

    Returns:
        None if the candidates are not whole numbers: the written number continues in the next token, or no candidate has
        more than one digit on a scale of several, where a `7` may begin `70`.
    """
    if not tokens:
        return None
    place = _answer_place(tokens, largest)
    following = tokens[place + 1].token if place + 1 < len(tokens) else ""
    if following[:1].isdigit():
        return None
    candidates = _candidates(tokens[place], largest)
    mass = sum(probability for _, probability in candidates)
    if mass <= 0 or (largest > 9 and all(value <= 9 for value, _ in candidates)):
        return None
    return ExpectedScore(sum(value * probability for value, probability in candidates) / mass, min(1.0, mass))


def without_thoughts(text: str, tokens: Sequence[TokenLogprob]) -> tuple[str, list[TokenLogprob]]:
    """An answer's text and tokens after the model's thoughts. Thoughts without an end leave nothing."""
    thoughts = _THOUGHTS.match(text)
    if thoughts is None:
        return text, list(tokens)
    n_read = 0
    for i, token in enumerate(tokens):
        n_read += len(token.token.translate(_SPACES))
        if n_read >= thoughts.end():
            return text[thoughts.end() :], list(tokens[i + 1 :])
    return text[thoughts.end() :], []


def written_number(text: str, largest: int) -> int | None:
    """The number at the beginning of an answer, at most after `Score:` and the like; None if there is none.

    `70`, `**70**`, `70/100`, `70 because ...`; not `0.7`, `7,000`, `60-70`, `7/10`, `-5`, `1. First`, nor a number beyond the scale.
    """
    found = _WRITTEN.match(text)
    if found is None or int(found[1]) > largest or (found[2] is not None and int(found[2]) != largest):
        return None
    return int(found[1])


def _answer_place(tokens: Sequence[TokenLogprob], largest: int) -> int:
    """Index of the first number if only a preamble precedes it, else of the first token."""
    before = ""
    for i, token in enumerate(tokens):
        if _number(token.token, largest) is not None:
            return i if re.fullmatch(_PREAMBLE, before, re.IGNORECASE) else 0
        before += token.token.translate(_SPACES)
    return 0


def _candidates(token: TokenLogprob, largest: int) -> list[tuple[int, float]]:
    """Numbers of the scale among a token's candidates, with their probabilities."""
    tops = token.top_logprobs or [TopLogprob(token=token.token, logprob=token.logprob)]
    pairs = [(_number(top.token, largest), top.logprob) for top in tops]
    return [
        (value, math.exp(min(0.0, logprob))) for value, logprob in pairs if value is not None and math.isfinite(logprob)
    ]


def _number(token: str, largest: int) -> int | None:
    """The number that a token is: `7`, `70`, ` 70`, `100`; not `070`, `7.` or a number beyond the scale."""
    text = token.translate(_SPACES).strip()
    return int(text) if _NUMBER.fullmatch(text) and int(text) <= largest else None
