"""What a judge said of one reply, and its identity: judge, rubric, prompt and reply, wherever the judge runs."""

from dataclasses import dataclass
from typing import Literal

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
