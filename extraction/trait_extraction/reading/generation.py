"""Replies to instructed scenarios, written by the model under the two system prompts of each pair, unsteered."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from trait_core.errors import ServiceError
from trait_core.schema import SHA256_PREFIX, Generation, ServiceInfo
from trait_core.storage import json_sha256

from trait_extraction.data.scenarios import Scenario
from trait_extraction.plan import Plan
from trait_extraction.reading.inputs import chat_messages
from trait_extraction.reading.source import Source
from trait_extraction.reading.stage_store import model_identity

MAX_IN_FLIGHT = 64
"""Most requests in flight; the engine batches them."""


@dataclass(frozen=True)
class Replies:
    """The model's replies, by scenario; empty where it said nothing.

    Args:
        positive: Replies of the side that was told to show the trait.
        negative: Replies of the side that was told to avoid it.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 of the texts."""
        return SHA256_PREFIX + json_sha256([self.positive, self.negative])


def generate_replies(plan: Plan, source: Source) -> Replies:
    """Generate the replies that are not stored yet; each is on disk as soon as it arrives.

    The first reply is generated alone: if the chat template refuses the messages, nothing else is sent.

    Raises:
        ServiceError: The service failed, or its chat template refuses the messages. Replies that arrived are kept, and the next run continues from them.
    """
    info, generation, store = source.info, plan.settings.generation, source.stored.replies
    variables = plan.settings.chat_template_kwargs
    scenarios = (*plan.dataset.positive, *plan.dataset.negative)
    keys = [reply_key(info, scenario, generation, variables) for scenario in scenarios]
    wanted = {key: s for key, s in zip(keys, scenarios, strict=True) if source.again or store.get(key) is None}
    n, stored = len(keys), len(keys) - len(wanted)
    if wanted:
        source.report(f"{plan.name}: generating {len(wanted)} replies on {info.model} ({stored} of {n} are stored)")

    def one(key: str, scenario: Scenario) -> None:
        reply = source.model.chat(
            chat_messages(scenario),
            model=info.model,
            max_tokens=generation.max_tokens,
            temperature=generation.temperature,
            top_p=generation.top_p,
            seed=generation.seed,
            chat_template_kwargs=variables,
        )
        store.put(key, {"reply": reply.text, "finish_reason": reply.finish_reason})

    if wanted:
        _first_alone(one, *next(iter(wanted.items())))
    in_flight = max(1, min(MAX_IN_FLIGHT, info.limits.max_num_seqs))
    with ThreadPoolExecutor(in_flight, thread_name_prefix="generate") as pool:
        futures = [pool.submit(one, key, scenario) for key, scenario in list(wanted.items())[1:]]
        try:
            for done, future in enumerate(as_completed(futures), start=2):
                future.result()
                if done % max(1, len(wanted) // 10) == 0 or done == len(wanted):
                    source.report(f"{plan.name}: {stored + done} of {n} replies")
        except BaseException:  # the interrupt key, too: what is not running yet is not started
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    texts = [(store.get(key) or {})["reply"] for key in keys]
    n_positive = len(plan.dataset.positive)
    return Replies(tuple(texts[:n_positive]), tuple(texts[n_positive:]))


def _first_alone(one: Callable[[str, Scenario], None], key: str, scenario: Scenario) -> None:
    try:
        one(key, scenario)
    except ServiceError as error:
        if error.status != 400:
            raise
        roles = ", ".join(message.role for message in chat_messages(scenario))
        raise ServiceError(
            f"the first chat (messages of {roles}) is refused, so the others were not sent: {error} (only --style instructed "
            "sends a system prompt)",
            error.status,
            error.param,
        ) from error


def reply_key(
    info: ServiceInfo, scenario: Scenario, generation: Generation, chat_template_kwargs: dict[str, Any] | None
) -> str:
    """The key of a stored reply: the digest of everything that it depends on."""
    messages = [message.model_dump() for message in chat_messages(scenario)]
    # Greedy replies do not depend on the seed.
    unused = {"seed"} if generation.temperature == 0 else set()
    values = [model_identity(info), messages, generation.model_dump(exclude=unused)]
    return json_sha256([*values, chat_template_kwargs] if chat_template_kwargs else values)
