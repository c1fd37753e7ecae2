"""Scores that need no judge: the unsteered model reads each reply, and its likelihood and activations give the numbers.

Each reply is read twice in one request: after its prompt, and without it: after an empty user message under the same
template, or after a line break where prompts are raw text.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from trait_client.http.activations import Activations
from trait_core.errors import ServiceError
from trait_core.schema import RESID_POST, ActivationInput, ActivationsRequest, HookPoint, Message

POSITIONS = "response[:]"
NO_TEXT = "\n"
"""Raw text that stands for no prompt: every tokenizer has a token for it, and not every one a BOS token."""

_NOT_FINITE = "the service answered a number that is not finite for a reply"

_WORD = re.compile(r"\w+")


class Reader(Protocol):
    """The one method of `AsyncTraitClient` that reading needs."""

    async def activations(self, request: ActivationsRequest) -> Activations:
        """`POST /v1/activations`."""
        ...


@dataclass(frozen=True)
class Reply:
    """A reply with its prompt.

    Args:
        prompt: The user's message, or the raw text.
        text: The reply; not empty (`is_empty`).
        system: The system prompt; None if none was sent.
        raw: The prompt was sent as it is, without the chat template.
        template_kwargs: Variables of the chat template that it was sent with.
    """

    prompt: str
    text: str
    system: str | None = None
    raw: bool = False
    template_kwargs: dict[str, Any] | None = None

    def prompted(self) -> ActivationInput:
        """The reply after its prompt, as it was written."""
        return self._after(self.prompt)

    def unprompted(self) -> ActivationInput:
        """The reply after nothing: an empty user message, or a line break, since raw text has at least one token."""
        return self._after(NO_TEXT if self.raw else "")

    def _after(self, prompt: str) -> ActivationInput:
        if self.raw:
            return ActivationInput(text=prompt, response=self.text)
        return ActivationInput(
            messages=chat_of(prompt, self.system), response=self.text, chat_template_kwargs=self.template_kwargs
        )


def chat_of(prompt: str, system: str | None) -> list[Message]:
    """The messages of a prompt, with a system prompt if there is one."""
    first = [Message(role="system", content=system)] if system is not None else []
    return [*first, Message(role="user", content=prompt)]


@dataclass(frozen=True)
class Reading:
    """The unsteered model's reading of a reply.

    Attributes:
        nll: Mean negative log-likelihood per token of the reply given its prompt, nats.
        nll_unprompted: The same without the prompt (`Reply.unprompted`).
        means: Hook point -> layer -> `(d_model,)` float32, mean over the reply's tokens, read after its prompt.
    """

    nll: float
    nll_unprompted: float
    means: dict[HookPoint, dict[int, np.ndarray]]

    @property
    def perplexity(self) -> float:
        """exp(nll)."""
        return float(np.exp(self.nll))

    @property
    def relevance(self) -> float:
        """Log p(reply | prompt) - log p(reply), nats per token; near 0 for text that ignores its prompt."""
        return self.nll_unprompted - self.nll


def is_empty(text: str) -> bool:
    """Tell whether a reply is blank: its coherence is 0, and it has no projection, relevance or perplexity."""
    return not text.strip()


async def read_replies(
    client: Reader, replies: Sequence[Reply], layers: Mapping[HookPoint, Collection[int]], model: str | None = None
) -> list[Reading]:
    """Read replies with the unsteered model: one request with two inputs per reply, and one for each further hook point.

    Args:
        client: The service.
        replies: Replies that are not empty (`is_empty`).
        layers: Layers that are read, by hook point; the residual stream is always read, on some layer.
        model: Adapter that reads the replies; None is the base model.

    Raises:
        ServiceError: The service failed, or answered a number that is not finite.
    """
    stream = sorted(layers.get(RESID_POST, ())) or [0]
    inputs = [each for reply in replies for each in (reply.prompted(), reply.unprompted())]
    request = ActivationsRequest(model=model, inputs=inputs, layers=stream, positions=[POSITIONS], logprobs=True)
    answer = await client.activations(request)
    nll = answer.nll
    means = {RESID_POST: _finite(answer)[::2]}
    for at in layers.keys() - {RESID_POST}:
        branch = ActivationsRequest(
            model=model, inputs=inputs[::2], layers=sorted(layers[at]), at=at, positions=[POSITIONS]
        )
        means[at] = _finite(await client.activations(branch))
    if not np.isfinite(nll).all():
        raise ServiceError(_NOT_FINITE)
    return [
        Reading(nll=float(nll[2 * i]), nll_unprompted=float(nll[2 * i + 1]), means={at: means[at][i] for at in means})
        for i in range(len(replies))
    ]


def _finite(answer: Activations) -> list[dict[int, np.ndarray]]:
    """Means of each text by layer."""
    means = answer.mean(POSITIONS)
    if not np.isfinite(means).all():
        raise ServiceError(_NOT_FINITE)
    return [dict(zip(answer.metadata.layers, text, strict=True)) for text in means]


def coherence(text: str, nll: float) -> float:
    """Min(100 (6 - nll) / 4, 100 (distinct3 - 0.3) / 0.5), clipped to 0..100.

    The first term falls from 100 at perplexity 7 to 0 at 400; the second catches loops, which have a low perplexity.

    Args:
        text: The reply; an empty reply has coherence 0.
        nll: Negative log-likelihood per token given the prompt, unsteered, nats.
    """
    if is_empty(text):
        return 0.0
    fluent = 100 * (6 - nll) / 4
    varied = 100 * (distinct3(text) - 0.3) / 0.5
    return float(np.clip(min(fluent, varied), 0, 100))


def distinct3(text: str) -> float:
    """Distinct word trigrams / word trigrams, case-insensitive.

    A text of fewer than three words is measured by character trigrams, so that `!!!!!!!` and `aaaaaaaa` count as loops
    and `Yes.` gives 1. Fewer than three characters give 1.
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
        centre: The vector file's centre at the same layer, residual units.
    """
    return float(np.dot(mean.astype(np.float64), direction.astype(np.float64)) - centre)
