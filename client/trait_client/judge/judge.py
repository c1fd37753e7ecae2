"""`Judge`: one score per question; earlier judgements are reused."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from typing import Self

from trait_client.judge.budget import Budget
from trait_client.judge.cache import JudgementCache, MemoryCache
from trait_client.judge.config import JudgeConfig
from trait_client.judge.endpoint import Endpoint, JudgeAnswer
from trait_client.judge.judgement import JudgeAnswerError, Judgement, Mode, judgement_id
from trait_client.judge.question import judge_messages
from trait_client.judge.rubric import Rubric
from trait_client.judge.weighting import expected_score, written_number
from trait_client.results.rows import JudgeRow

SECOND_TEMPERATURE = 0.7
"""For a second attempt after an unreadable answer; at temperature 0 the answer would be the same."""


@dataclass(frozen=True)
class JudgeUsage:
    """Counts of a judge's work.

    Attributes:
        judged: Scores from new answers.
        cached: Scores from the cache.
        calls: Requests sent, retries included.
        tokens: Tokens of prompts and answers.
        logprobs: Scores weighted by probability.
        sampled: Scores taken from the written number.
    """

    judged: int
    cached: int
    calls: int
    tokens: int
    logprobs: int
    sampled: int


def judge_row(config: JudgeConfig, rubric: Rubric) -> JudgeRow:
    """The database row of a judge with a rubric."""
    asking = json.dumps(config.asking(), sort_keys=True)
    return JudgeRow(config.definition(rubric), config.model, rubric.trait, rubric.text, asking)


class Judge:
    """A judge: an async context manager, safe for concurrent questions.

    Args:
        config: The judge and its limits.
        cache: Earlier judgements; None keeps them in memory as long as this object lives.

    Raises:
        InvalidRequestError: The environment variable of the key is not set.
    """

    def __init__(self, config: JudgeConfig, cache: JudgementCache | None = None) -> None:
        self.config = config
        self._cache = cache or MemoryCache()
        self._budget = Budget(config.max_calls, config.max_tokens)
        self._endpoint = Endpoint(config, config.api_key(), self._budget)
        self._asking: dict[str, asyncio.Task[Judgement]] = {}
        self._cached = 0
        self._modes: Counter[Mode] = Counter()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel questions in flight and close the connections."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._endpoint.close()

    @property
    def usage(self) -> JudgeUsage:
        """Counts so far."""
        return JudgeUsage(
            judged=self._modes.total(),
            cached=self._cached,
            calls=self._budget.calls,
            tokens=self._budget.tokens,
            logprobs=self._modes["logprobs"],
            sampled=self._modes["sampled"],
        )

    async def judge(self, rubric: Rubric, prompt: str, reply: str) -> Judgement:
        """Rate a reply.

        Raises:
            JudgeEndpointError: No usable answer after all retries, or the judge was given up before.
            JudgeAnswerError: The answer contains no number of the scale.
            JudgeBudgetError: The budget is used up.
        """
        definition = self.config.definition(rubric)
        identity = judgement_id(definition, prompt, reply)
        task = self._asking.get(identity)
        if task is not None:
            self._cached += 1
        else:  # the task itself reads the cache, so that no second question starts in between
            task = asyncio.create_task(self._find_or_ask(identity, definition, rubric, prompt, reply))
            self._asking[identity] = task
            task.add_done_callback(lambda done: self._asked(identity, done))
        return await asyncio.shield(task)

    def _asked(self, identity: str, task: "asyncio.Task[Judgement]") -> None:
        del self._asking[identity]
        if not task.cancelled():
            task.exception()  # retrieved, even if nobody waits for it any more

    async def _find_or_ask(self, identity: str, definition: str, rubric: Rubric, prompt: str, reply: str) -> Judgement:
        if (known := await self._cache.get(identity)) is not None:
            self._cached += 1
            return known
        messages = judge_messages(rubric, prompt, reply, self.config.scale)
        answer = await self._endpoint.ask(messages)
        found = self._score(answer)
        if found is None:
            answer = await self._endpoint.ask(messages, SECOND_TEMPERATURE)
            found = self._score(answer)
        if found is None:
            raise JudgeAnswerError(
                self.config.largest, answer.text, self.config.max_answer_tokens if answer.cut else None
            )
        value, mode, mass = found
        self._modes[mode] += 1
        judgement = Judgement(
            judgement_id=identity,
            definition=definition,
            value=100 * value / self.config.largest,
            mode=mode,
            mass=mass,
            answer=answer.text,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
        )
        self._cache.put(judgement, judge_row(self.config, rubric))
        return judgement

    def _score(self, answer: JudgeAnswer) -> tuple[float, Mode, float | None] | None:
        """Value on the scale, mode and mass; None if the answer has no number."""
        found = expected_score(answer.tokens, self.config.largest)
        mass = found.mass if found is not None else None
        if found is not None and found.mass >= self.config.min_mass:
            return found.value, "logprobs", mass
        number = written_number(answer.text, self.config.largest)
        return None if number is None else (float(number), "sampled", mass)
