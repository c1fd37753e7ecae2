"""A judge's score of one reply with its identity (judge, rubric, prompt and reply), and the errors in place of a score."""

from dataclasses import dataclass
from typing import Literal

from trait_core.errors import TraitError
from trait_core.model_identity import digest

Mode = Literal["logprobs", "sampled"]
"""`logprobs`: weighted by probability. `sampled`: the written number."""


@dataclass(frozen=True)
class Judgement:
    """A score of a judge.

    Attributes:
        judgement_id: Identity, see `judgement_id()`.
        definition: Digest of judge and rubric.
        value: Score, 0 to 100.
        mode: Origin of the value.
        mass: Probability of the candidates that are numbers; None without candidates.
        answer: The judge's text.
        prompt_tokens: The endpoint's count; None if it does not say.
        completion_tokens: The endpoint's count; None if it does not say.
    """

    judgement_id: str
    definition: str
    value: float
    mode: Mode
    mass: float | None
    answer: str
    prompt_tokens: int | None
    completion_tokens: int | None


def judgement_id(definition: str, prompt: str, reply: str) -> str:
    """Identity of a question to a judge."""
    return digest([definition, prompt, reply])


class JudgeError(TraitError):
    """The judge gave no score; the score stays pending and is never 0.

    The tree::

        JudgeError
        ├── JudgeEndpointError   no usable answer: unreachable, too slow, busy, refused, malformed
        ├── JudgeAnswerError     the answer contains no number of the scale
        └── JudgeBudgetError     the allowed calls or tokens are used up
    """

    @property
    def kind(self) -> str:
        """The common part of similar failures, for counting them."""
        return f"{type(self).__name__}: {self}"


class JudgeEndpointError(JudgeError):
    """The endpoint gave no usable answer after all retries.

    Args:
        message: The failure and the remedy.
        final: True if another attempt is pointless: a wrong key, model or address.
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class JudgeAnswerError(JudgeError):
    """The answer contains no number of the scale.

    Args:
        largest: The largest number of the scale.
        answer: The judge's text.
        cut_at: Maximum tokens of an answer, if this one was cut there.
    """

    def __init__(self, largest: int, answer: str, cut_at: int | None = None) -> None:
        cut = "" if cut_at is None else f" and was cut at max_answer_tokens = {cut_at}"
        self._what = f"the judge's answer holds no number from 0 to {largest}{cut}"
        super().__init__(f"{self._what}: {answer[:80]!r}")

    @property
    def kind(self) -> str:
        """The message without the answer, which differs each time."""
        return f"{type(self).__name__}: {self._what}"


class JudgeBudgetError(JudgeError):
    """The allowed calls or tokens are used up."""
