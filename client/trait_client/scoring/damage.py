"""Damage: how far steering changes a model on texts on which it should change nothing (`datasets/damage`).

- *KL*: sum of p log(p / q) over next tokens, nats, with p unsteered and q steered; its mean over the tokens of neutral passages.
  The service reports the likeliest tokens of each position, not all, so that this is the largest bound from below that they
  allow (`reported_kl`): never more than the exact KL. `coverage` says which part of p was compared token by token.
- *NLL rise*: how much less likely the passages become, nats per token. It may be negative.
- *Accuracy* on multiple-choice questions: the letter whose text, read as a whole, is the likeliest. By chance 0.25.

Everything is read as a prompt, with nothing generated. A scope that reaches less than half of a prompt's tokens would show less
damage than it does in a reply, and is refused (`reaches_prompts`). Where a gate stays shut on a text, the damage is 0.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Unpack, get_args

import numpy as np

from trait_client.http.chat_requests import CompletionOptions
from trait_client.http.replies import ChatResult, TokenLogprob
from trait_client.scoring.damage_set import LETTERS, ChoiceQuestion, Passage
from trait_core.errors import InvalidRequestError, ServiceError
from trait_core.positions import Positions
from trait_core.schema import NamedScope, PositionScope, Steering, SteeringTerm
from trait_core.statistics import Floats, Interval, PairedDelta, bootstrap_interval, paired_delta

TOP = 20
"""Tokens reported for each position; vLLM's default maximum."""

IN_FLIGHT = 64
"""Requests sent at once."""

LENGTH = 64
"""Tokens of a prompt by which a scope is judged."""

_SMALLEST = 1e-6
"""Least probability of tokens that are put together or not reported: it is a difference of rounded float32 numbers."""


class Completer(Protocol):
    """The one method of `AsyncTraitClient` that reading needs."""

    async def complete(
        self, prompt: str | list[int], *, model: str | None = None, **options: Unpack[CompletionOptions]
    ) -> ChatResult:
        """`POST /v1/completions`."""
        ...


@dataclass(frozen=True)
class DamageReading:
    """The damage set as a model reads it, steered or not.

    Attributes:
        passages: Id -> the passage's tokens without the first, with their likeliest alternatives.
        choices: Id -> `(4,)` float64: log-probability of the question with each letter as its answer, nats.
        right: Id -> index of the right letter.
    """

    passages: Mapping[str, Sequence[TokenLogprob]]
    choices: Mapping[str, Floats]
    right: Mapping[str, int]

    @property
    def answers_right(self) -> dict[str, float]:
        """Id -> 1 if the right letter is the likeliest of the four, else 0."""
        return {key: float(int(totals.argmax()) == self.right[key]) for key, totals in self.choices.items()}

    @property
    def right_probabilities(self) -> dict[str, float]:
        """Id -> probability of the right letter among the four."""
        shares = {key: np.exp(totals - totals.max()) for key, totals in self.choices.items()}
        return {key: float(share[self.right[key]] / share.sum()) for key, share in shares.items()}


@dataclass(frozen=True)
class Damage:
    """A steered reading against the unsteered one; intervals are 95 per cent bootstrap over passages or questions.

    Attributes:
        kl: Mean over passages of their KL, nats per token; at most the exact one.
        kl_interval: None for fewer than two passages.
        coverage: Mean part of the unsteered probability that was compared token by token.
        nll_rise: Mean over passages of unsteered minus steered log-probability, nats per token.
        nll_rise_interval: None for fewer than two passages.
        accuracy: Share of questions answered rightly, unsteered, steered, and the difference; None without questions.
        right_probability: The same for the probability of the right letter among the four: it moves before the accuracy does.
    """

    kl: float
    kl_interval: Interval | None
    coverage: float
    nll_rise: float
    nll_rise_interval: Interval | None
    accuracy: PairedDelta | None
    right_probability: PairedDelta | None


async def read_damage_set(
    client: Completer,
    passages: Sequence[Passage],
    choices: Sequence[ChoiceQuestion],
    steering: Steering | None = None,
    model: str | None = None,
) -> DamageReading:
    """Read passages and questions, one request for each passage and four for each question.

    Args:
        client: The service.
        passages: Neutral passages.
        choices: Multiple-choice questions.
        steering: The steering; None reads them unsteered.
        model: Adapter or alias that reads them; None is the base model.

    Raises:
        InvalidRequestError: A term does not reach prompts (`reaches_prompts`).
        ServiceError: The service failed, or answered without log-probabilities.
        SteeringFailedError: The answer does not report the steering as it was requested.
    """
    for term in steering.terms if steering is not None else []:
        if not reaches_prompts(term):
            raise InvalidRequestError(
                'damage is read on prompts, and a term acts on few of their tokens: use the scope "all" and no gate with the hold '
                '"prompt"',
                param="scope",
            )
    free = asyncio.Semaphore(IN_FLIGHT)

    async def read(text: str, top: int) -> list[TokenLogprob]:
        async with free:
            return await _prompt_logprobs(client, text, top, steering, model)

    async def total(text: str) -> float:
        return sum(token.logprob for token in await read(text, 0))

    asked = [total(f"{choice.prompt()} {letter}") for choice in choices for letter in LETTERS]
    read_passages, totals = await asyncio.gather(
        asyncio.gather(*(read(passage.text, TOP) for passage in passages)), asyncio.gather(*asked)
    )
    table = np.array(totals, np.float64).reshape(-1, len(LETTERS))
    return DamageReading(
        passages={passage.id: tokens for passage, tokens in zip(passages, read_passages, strict=True)},
        choices={choice.id: row for choice, row in zip(choices, table, strict=True)},
        right={choice.id: LETTERS.index(choice.answer) for choice in choices},
    )


def reaches_prompts(term: SteeringTerm) -> bool:
    """Tell whether a term acts on a prompt's tokens as it does on a reply's, so that reading prompts shows its damage.

    Its scope holds at least half of a prompt's positions. A gate with the hold `prompt` acts behind the prompt alone.
    """
    if term.when is not None and term.when.hold == "prompt":
        return False
    if isinstance(term.scope, PositionScope):
        start, stop = term.scope.positions
        return min(stop, LENGTH) - start >= LENGTH / 2
    if term.scope in get_args(NamedScope):
        return term.scope in {"all", "prompt"}
    try:
        return len(Positions.parse(term.scope).indices(LENGTH, LENGTH)) >= LENGTH / 2
    except InvalidRequestError:
        return False  # it names parts of a chat or a reply, which a passage does not have


def damage(unsteered: DamageReading, steered: DamageReading) -> Damage:
    """Compare two readings of the same set.

    Raises:
        InvalidRequestError: The readings have no passage or no question in common, or split a passage into other tokens.
    """
    keys = [key for key in unsteered.passages if key in steered.passages]
    if not keys:
        raise InvalidRequestError("the two readings have no passage in common: read the same set twice")
    by_passage = np.array([_compare(key, unsteered.passages[key], steered.passages[key]) for key in keys])
    kl, coverage, rise = by_passage.mean(axis=0)
    asked = bool(unsteered.choices or steered.choices)
    return Damage(
        kl=float(kl),
        kl_interval=bootstrap_interval(by_passage[:, 0]),
        coverage=float(coverage),
        nll_rise=float(rise),
        nll_rise_interval=bootstrap_interval(by_passage[:, 2]),
        accuracy=paired_delta(steered.answers_right, unsteered.answers_right) if asked else None,
        right_probability=paired_delta(steered.right_probabilities, unsteered.right_probabilities) if asked else None,
    )


def reported_kl(p: Mapping[str, float], q: Mapping[str, float], limit: float = 0.0) -> tuple[float, float]:
    """Bound the KL of q from p from below by the tokens that are reported.

    The larger of two bounds. Both compare the tokens in common one by one. The first puts all others together, by the log-sum
    inequality (Cover & Thomas 2006, theorem 2.7.1). The second takes q at its limit for tokens that only p reports, and puts
    the rest together: it holds on where the two lists have little in common.

    Args:
        p: Token -> log-probability, nats, unsteered.
        q: Token -> log-probability, nats, steered.
        limit: Largest log-probability under q of a token that q does not report, nats.

    Returns:
        `(kl, coverage)`: nats, 0 or more; and the part of p's probability on the tokens in common.
    """
    common = sorted(p.keys() & q.keys())
    first, second = (np.array([table[token] for token in common], np.float64) for table in (p, q))
    alone = np.array([p[token] for token in sorted(p.keys() - q.keys())], np.float64)
    compared = float((np.exp(first) * (first - second)).sum())
    inside = float(np.exp(first).sum())
    others = max(1.0 - float(np.exp(second).sum()), _SMALLEST)
    unreported = max(1.0 - float(np.exp(list(q.values())).sum()), _SMALLEST)
    capped = float((np.exp(alone) * (alone - min(limit, np.log(unreported)))).sum())
    together = compared + _share(1.0 - inside, others)
    apart = compared + capped + _share(1.0 - inside - float(np.exp(alone).sum()), others)
    return max(together, apart, 0.0), min(inside, 1.0)


def _share(p: float, q: float) -> float:
    """The term p log(p / q) of two sums of probabilities, of which p may be a rounding error below 0."""
    return max(p, _SMALLEST) * float(np.log(max(p, _SMALLEST) / q))


def _compare(
    key: str, unsteered: Sequence[TokenLogprob], steered: Sequence[TokenLogprob]
) -> tuple[float, float, float]:
    """Means over the tokens of a passage: KL, coverage, NLL rise."""
    if [token.token for token in unsteered] != [token.token for token in steered]:
        raise InvalidRequestError(f"passage {key!r} has other tokens in the two readings: read both with one model")
    rows = [
        (*reported_kl(_reported(before), _reported(after), _limit(after)), before.logprob - after.logprob)
        for before, after in zip(unsteered, steered, strict=True)
    ]
    kl, coverage, rise = np.array(rows, np.float64).mean(axis=0)
    return float(kl), float(coverage), float(rise)


def _reported(token: TokenLogprob) -> dict[str, float]:
    return {other.token: other.logprob for other in token.top_logprobs} | {token.token: token.logprob}


def _limit(token: TokenLogprob) -> float:
    """Largest log-probability of a token that is not reported: the least of the likeliest, the token itself left out."""
    return min((other.logprob for other in token.top_logprobs if other.token != token.token), default=0.0)


async def _prompt_logprobs(
    client: Completer, text: str, top: int, steering: Steering | None, model: str | None
) -> list[TokenLogprob]:
    answer = await client.complete(text, model=model, steering=steering, echo=True, logprobs=top, max_tokens=1)
    gated = steering is not None and any(term.when is not None for term in steering.terms)
    reached = answer.steering is None or answer.steering.positions.prompt > 0 or gated
    if steering is not None and not reached:
        raise InvalidRequestError(
            'the steering reaches no prompt token, and damage is read on prompts: use the scope "all"', param="scope"
        )
    tokens = answer.logprobs
    if not tokens or len(tokens) != answer.usage.prompt_tokens - 1 + answer.usage.completion_tokens:
        raise ServiceError(
            f"the service reported {len(tokens or [])} log-probabilities for {answer.usage.prompt_tokens} prompt tokens"
        )
    return tokens[: answer.usage.prompt_tokens - 1]
