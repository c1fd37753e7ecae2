"""Replies that the model writes, unsteered: to chats under opposite system prompts, or as continuations of raw text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trait_client.http.replies import ChatResult
from trait_core.errors import ServiceError
from trait_core.positions import Positions
from trait_core.reasoning import split_reasoning
from trait_core.schema import SHA256_PREFIX, Generation, ServiceInfo
from trait_core.storage import json_sha256

from trait_extraction.data.continued import continued, raw_text
from trait_extraction.data.scenarios import Scenario
from trait_extraction.plan import PAST_SINKS, Plan
from trait_extraction.reading.inputs import chat_messages
from trait_extraction.reading.source import Source
from trait_extraction.reading.stage_store import model_identity

MAX_IN_FLIGHT = 128
"""Most requests in flight, over all traits; the engine batches them."""


Ids = tuple[int, ...]
Scenarios = Sequence[Scenario]


@dataclass(frozen=True)
class ReplyTask:
    """One reply to generate.

    Args:
        key: Digest of everything that the reply depends on.
        scenario: The scenario that the model replies to.
        generation: How it replies; the seed is the sample's own.
    """

    key: str
    scenario: Scenario
    generation: Generation


@dataclass(frozen=True)
class Replies:
    """The model's replies without their reasoning, which are checked, by scenario; empty where it said nothing.

    Args:
        positive: Replies of the side that shows the trait.
        negative: Replies of the other side.
        tokens: Token ids of each continuation, without the end of the text, positive and negative side; None for chats.
        readable: Replies that have a token at the positions, positive and negative side; None: all that are not blank.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    tokens: tuple[tuple[Ids, ...], tuple[Ids, ...]] | None = None
    readable: tuple[tuple[bool, ...], tuple[bool, ...]] | None = None

    @property
    def digest(self) -> str:
        """sha256 of the texts; of continuations, of their token ids."""
        return SHA256_PREFIX + json_sha256([self.positive, self.negative] if self.tokens is None else self.tokens)

    @property
    def usable(self) -> tuple[Sequence[bool], Sequence[bool]]:
        """Replies that can be read, positive and negative side."""
        if self.readable is not None:
            return self.readable
        return [bool(text.strip()) for text in self.positive], [bool(text.strip()) for text in self.negative]


def reply_tasks(plan: Plan, source: Source) -> list[ReplyTask]:
    """Every reply that a plan needs, by scenario: the positive side, then the negative.

    Sample `i` of a scenario is drawn with the seed `seed + i`, so that further samples do not change the first ones.
    """
    given, n = plan.settings.generation, plan.settings.samples
    tasks = []
    for at, scenario in enumerate((*plan.dataset.positive, *plan.dataset.negative)):
        generation = given.model_copy(update={"seed": (given.seed or 0) + at % n}) if n > 1 else given
        if plan.dataset.style == "continued":
            key = continuation_key(source.info, scenario, generation)
        else:
            key = reply_key(source.info, scenario, generation, plan.settings.chat_template_kwargs)
        tasks.append(ReplyTask(key, scenario, generation))
    return tasks


def missing_replies(plan: Plan, source: Source) -> list[ReplyTask]:
    """The replies of a plan that are not stored yet, each once."""
    store = source.stored.replies
    tasks = {task.key: task for task in reply_tasks(plan, source)}
    return [task for key, task in tasks.items() if source.again or store.get(key) is None]


def generate(task: ReplyTask, plan: Plan, source: Source) -> int:
    """Generate one reply; it is on disk when this returns.

    Returns:
        Number of generated tokens.

    Raises:
        ServiceError: The service failed, or its chat template refuses the messages.
    """
    how, value = task.generation.model_dump(), dict[str, Any]()
    if plan.dataset.style == "continued":
        answer = source.model.complete(raw_text(task.scenario), model=source.info.model, token_ids=True, **how)
        (choice,) = answer.choices
        if choice.token_ids is None or choice.prompt_token_ids is None:
            raise ServiceError("the service returned no token ids: does it have the version of this client?")
        ended = choice.finish_reason == "stop" and bool(choice.token_ids)  # the last token is the end of the text then
        ids = choice.token_ids[:-1] if ended else choice.token_ids
        value |= {"token_ids": ids, "prompt_ids": choice.prompt_token_ids}
    else:
        answer = source.model.chat(
            chat_messages(task.scenario),
            model=source.info.model,
            chat_template_kwargs=plan.settings.chat_template_kwargs,
            **how,
        )
    value |= {"reply": _whole(answer, source.info.reasoning_markers), "finish_reason": answer.finish_reason}
    source.stored.replies.put(task.key, value)
    return answer.usage.completion_tokens


def _whole(answer: ChatResult, markers: str | None) -> str:
    """A reply with its reasoning, as it is read back, where the service has taken the reasoning out of it."""
    if answer.reasoning is None or markers is None:
        return answer.text
    begin, end = markers.split(" ")
    ended = bool(answer.text) or answer.finish_reason != "length"
    return f"{begin}{answer.reasoning}{end if ended else ''}{answer.text}"


def refused_alone(error: ServiceError, task: ReplyTask) -> ServiceError:
    """The error for a first chat that the service refuses, before the others of its trait are sent."""
    roles = ", ".join(message.role for message in chat_messages(task.scenario))
    return ServiceError(
        f"the first chat (messages of {roles}) is refused, so the others were not sent: {error} (only --style instructed "
        "sends a system prompt)",
        error.status,
        error.param,
    )


def stored_replies(plan: Plan, source: Source) -> tuple[Replies, Scenarios, Scenarios]:
    """The replies of a plan, once all of them are stored, and the scenarios of both sides with them."""
    found = [source.stored.replies.get(task.key) or {} for task in reply_tasks(plan, source)]
    texts, half = [value["reply"] for value in found], len(plan.dataset.positive)
    scenarios = [*plan.dataset.positive, *plan.dataset.negative]
    if plan.dataset.style != "continued":
        replied = [s.model_copy(update={"response": t}) for s, t in zip(scenarios, texts, strict=True)]
        markers = source.info.reasoning_markers
        answers = texts if markers is None else [split_reasoning(text, markers)[1] for text in texts]
        return Replies(tuple(answers[:half]), tuple(answers[half:])), replied[:half], replied[half:]
    prompts, tokens = ([tuple(value[name]) for value in found] for name in ("prompt_ids", "token_ids"))
    pools = [plan.settings.positions, PAST_SINKS]
    readable = [bool(ids) and _holds(pools, len(prompt), len(ids)) for prompt, ids in zip(prompts, tokens, strict=True)]
    replies = Replies(
        tuple(texts[:half]),
        tuple(texts[half:]),
        (tuple(tokens[:half]), tuple(tokens[half:])),
        (tuple(readable[:half]), tuple(readable[half:])),
    )
    told = [continued(*each) for each in zip(scenarios, texts, prompts, tokens, strict=True)]
    return replies, told[:half], told[half:]


def _holds(pools: Sequence[Positions], n_prompt: int, n_response: int) -> bool:
    """True if a text has a token at each of the positions; what depends on the text itself is left to the service."""
    return all(pool.needs_tokens or pool.indices(n_prompt, n_prompt + n_response) for pool in pools)


def reply_key(
    info: ServiceInfo, scenario: Scenario, generation: Generation, chat_template_kwargs: dict[str, Any] | None
) -> str:
    """The key of a stored reply: the digest of everything that it depends on."""
    messages = [message.model_dump() for message in chat_messages(scenario)]
    values = [model_identity(info), messages, _sampling(generation)]
    return json_sha256([*values, chat_template_kwargs] if chat_template_kwargs else values)


def continuation_key(info: ServiceInfo, scenario: Scenario, generation: Generation) -> str:
    """The key of a stored continuation of raw text."""
    return json_sha256([model_identity(info), {"text": raw_text(scenario)}, _sampling(generation)])


def _sampling(generation: Generation) -> dict[str, Any]:
    # Greedy replies do not depend on the seed.
    return generation.model_dump(exclude={"seed"} if generation.temperature == 0 else set())
