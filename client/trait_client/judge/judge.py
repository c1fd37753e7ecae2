"""`Judge`: one question, one score; what was judged before is not asked again."""

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
"""An unreadable answer is asked for once more; at temperature 0 it would be the same."""


@dataclass(frozen=True)
class JudgeUsage:
    """What a judge did.

    Attributes:
        judged: Scores by asking.
        cached: Scores that were known.
        calls: Requests sent, repetitions included.
        tokens: Prompts and answers.
        logprobs: Scores that were weighted by probability.
        sampled: Scores that are the number as written.
    """

    judged: int
    cached: int
    calls: int
    tokens: int
    logprobs: int
    sampled: int


def judge_row(config: JudgeConfig, rubric: Rubric) -> JudgeRow:
    """A judge with a rubric, as the database holds it."""
    asking = json.dumps(config.asking(), sort_keys=True)
    return JudgeRow(config.definition(rubric), config.model, rubric.trait, rubric.text, asking)


class Judge:
    """A judge: a context manager, safe for any number of questions at once.

    Args:
        config: Which, how, how much.
        cache: What was judged before; None remembers for as long as this object lives.

    Raises:
        InvalidRequestError: The variable of the key is not set.
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
        """Drop what is being asked, and close the connections."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._endpoint.close()

    @property
    def usage(self) -> JudgeUsage:
        """What was done so far."""
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
            JudgeEndpointError: No usable answer, repetitions included; or the judge was given up before.
            JudgeAnswerError: The answer holds no number.
            JudgeBudgetError: The budget is spent.
        """
        definition = self.config.definition(rubric)
        identity = judgement_id(definition, prompt, reply)
        task = self._asking.get(identity)
        if task is not None:
            self._cached += 1
        else:  # the task looks into the cache itself: between that and asking nobody else can begin
            task = asyncio.create_task(self._find_or_ask(identity, definition, rubric, prompt, reply))
            self._asking[identity] = task
            task.add_done_callback(lambda done: self._asked(identity, done))
        return await asyncio.shield(task)

    def _asked(self, identity: str, task: "asyncio.Task[Judgement]") -> None:
        del self._asking[identity]
        if not task.cancelled():
            task.exception()  # looked at, whoever waited is gone or not

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
            raise JudgeAnswerError(self.config.largest, answer.text)
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
        """Value on the scale, mode and mass."""
        found = expected_score(answer.tokens, self.config.largest)
        mass = found.mass if found is not None else None
        if found is not None and found.mass >= self.config.min_mass:
            return found.value, "logprobs", mass
        number = written_number(answer.text, self.config.largest)
        return None if number is None else (float(number), "sampled", mass)
