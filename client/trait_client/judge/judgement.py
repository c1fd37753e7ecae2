"""A judge's score of one reply with its identity (judge, rubric, prompt and reply), and the errors in place of a score."""

from dataclasses import dataclass
from typing import Literal

from trait_core.errors import TraitError
from trait_core.model_identity import digest

Mode = Literal["logprobs", "sampled"]
"""`logprobs`: weighted by probability. `sampled`: the number that was written."""


@dataclass(frozen=True)
class Judgement:
    """One answer of a judge.

    Attributes:
        judgement_id: Identity (`judgement_id`).
        definition: Digest of judge and rubric.
        value: 0 to 100.
        mode: How the value was taken.
        mass: Probability of the candidates that were numbers; None where there were no candidates.
        answer: The text that the judge wrote.
        prompt_tokens: As the endpoint counts; None where it does not say.
        completion_tokens: Likewise.
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
    """Identity of a question put to a judge."""
    return digest([definition, prompt, reply])


class JudgeError(TraitError):
    """The judge gave no score: the score stays pending, it is never 0.

    The tree::

        JudgeError
        ├── JudgeEndpointError   no usable answer: unreachable, too slow, busy, refusing, broken
        ├── JudgeAnswerError     an answer that holds no number of the scale
        └── JudgeBudgetError     the calls or tokens that were allowed are used up
    """

    @property
    def kind(self) -> str:
        """What many failures have in common, for counting them."""
        return f"{type(self).__name__}: {self}"


class JudgeEndpointError(JudgeError):
    """The endpoint did not answer as asked, repetitions included.

    Args:
        message: What happened, and what to do.
        final: Whether asking again is pointless: a wrong key, model or address.
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class JudgeAnswerError(JudgeError):
    """The answer holds no number of the scale.

    Args:
        largest: The scale's end.
        answer: What was written instead.
    """

    def __init__(self, largest: int, answer: str) -> None:
        self._what = f"the judge's answer holds no number from 0 to {largest}"
        super().__init__(f"{self._what}: {answer[:80]!r}")

    @property
    def kind(self) -> str:
        """Without the answer: each is another."""
        return f"{type(self).__name__}: {self._what}"


class JudgeBudgetError(JudgeError):
    """The calls or tokens that were allowed are used up."""
