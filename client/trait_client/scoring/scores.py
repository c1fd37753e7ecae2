"""Scores that need no judge: replies are read back by the unsteered model, and the numbers follow from what it says.

One reply is read twice in one request: after its prompt, and after an empty user message under the same template.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from trait_client.http.activations import Activations
from trait_core.errors import ServiceError
from trait_core.schema import ActivationInput, ActivationsRequest, Message

POSITIONS = "response[:]"

_WORD = re.compile(r"\w+")


class Reader(Protocol):
    """The one method of `AsyncTraitClient` that reading needs."""

    async def activations(self, request: ActivationsRequest) -> Activations:
        """`POST /v1/activations`."""
        ...


@dataclass(frozen=True)
class Reply:
    """A reply and what it answers.

    Args:
        prompt: The user's message.
        text: The reply; not empty (`is_empty`).
        system: The system prompt, if one was sent.
    """

    prompt: str
    text: str
    system: str | None = None

    def messages(self, prompt: str) -> list[Message]:
        """The chat that the reply follows, with another user's message in place of its own."""
        system = [Message(role="system", content=self.system)] if self.system is not None else []
        return [*system, Message(role="user", content=prompt)]


@dataclass(frozen=True)
class Reading:
    """What the unsteered model makes of a reply.

    Attributes:
        nll: Mean negative log-likelihood of a token of the reply given its prompt, nats.
        nll_unprompted: The same after an empty user message.
        means: Layer -> `(d_model,)` float32, mean residual stream over the reply's tokens after its prompt.
    """

    nll: float
    nll_unprompted: float
    means: dict[int, np.ndarray]

    @property
    def perplexity(self) -> float:
        """exp(nll)."""
        return float(np.exp(self.nll))

    @property
    def relevance(self) -> float:
        """Log p(reply | prompt) - log p(reply), nats a token: near 0 for text that ignores its prompt."""
        return self.nll_unprompted - self.nll


def is_empty(text: str) -> bool:
    """Whether a reply says nothing: its coherence is 0, and it has no projection, relevance or perplexity."""
    return not text.strip()


async def read_replies(
    client: Reader, replies: Sequence[Reply], layers: Sequence[int], model: str | None = None
) -> list[Reading]:
    """Read replies back, unsteered, in one request of two inputs a reply.

    Args:
        client: The service.
        replies: None of them empty.
        layers: Whose residual stream is read.
        model: An adapter that reads; None is the base model.

    Raises:
        ServiceError: The service's own error, or a likelihood that is not finite.
    """
    inputs = [
        ActivationInput(messages=reply.messages(prompt), response=reply.text)
        for reply in replies
        for prompt in (reply.prompt, "")
    ]
    request = ActivationsRequest(
        model=model, inputs=inputs, layers=sorted(set(layers)), positions=[POSITIONS], logprobs=True
    )
    answer = await client.activations(request)
    means, nll = answer.mean(POSITIONS), answer.nll
    if not (np.isfinite(nll).all() and np.isfinite(means).all()):
        raise ServiceError("the service read a reply and answered a number that is not finite")
    return [
        Reading(
            nll=float(nll[i]),
            nll_unprompted=float(nll[i + 1]),
            means={layer: means[i, row] for row, layer in enumerate(answer.metadata.layers)},
        )
        for i in range(0, 2 * len(replies), 2)
    ]


def coherence(text: str, nll: float) -> float:
    """Min(100 (6 - nll) / 4, 100 (distinct3 - 0.3) / 0.5), clipped to 0..100.

    The first term falls from 100 at perplexity 7 to 0 at 400; the second catches loops, which have a low perplexity.

    Args:
        text: The reply; an empty one has coherence 0.
        nll: Nats a token given the prompt, unsteered.
    """
    if is_empty(text):
        return 0.0
    fluent = 100 * (6 - nll) / 4
    varied = 100 * (distinct3(text) - 0.3) / 0.5
    return float(np.clip(min(fluent, varied), 0, 100))


def distinct3(text: str) -> float:
    """Distinct word trigrams / word trigrams, without regard to case.

    Fewer than three words have no trigram of words: their characters are taken instead, so that `!!!!!!!` or
    `aaaaaaaa` counts as the loop it is and `Yes.` as 1. Fewer than three characters give 1.
    """
    units: Sequence[str] = _WORD.findall(text.casefold())
    if len(units) < 3:
        units = "".join(text.casefold().split())
    trigrams = list(zip(units, units[1:], units[2:], strict=False))
    return len(set(trigrams)) / len(trigrams) if trigrams else 1.0


def projection(mean: np.ndarray, direction: np.ndarray, centre: float) -> float:
    """`mean . d - centre`, residual units: above 0 on the trait's side of the training classes.

    Args:
        mean: `(d_model,)` float32, residual units.
        direction: `(d_model,)` float32, unit length.
        centre: The vector file's, at the same layer.
    """
    return float(np.dot(mean.astype(np.float64), direction.astype(np.float64)) - centre)
