"""Replies to instructed scenarios, written by the model under the two system prompts of each pair, unsteered."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from trait_core.schema import Generation, ServiceInfo
from trait_core.storage import json_sha256

from trait_extraction.data.datasets import TraitDataset
from trait_extraction.data.scenarios import Scenario
from trait_extraction.reading.activations import ActivationService, chat_messages
from trait_extraction.reading.stage_store import KeyedLines, model_identity

MAX_IN_FLIGHT = 64
"""Requests at once; the engine batches them."""


@dataclass(frozen=True)
class Replies:
    """What the model said, by scenario; empty where it said nothing.

    Args:
        positive: Told to show the trait.
        negative: Told to avoid it.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 of the texts."""
        return "sha256:" + json_sha256([self.positive, self.negative])


def generate_replies(
    service: ActivationService,
    info: ServiceInfo,
    dataset: TraitDataset,
    generation: Generation,
    store: KeyedLines,
    *,
    again: bool = False,
    report: Callable[[str], None],
) -> Replies:
    """Generate what is not stored yet; every reply is on the disk as soon as it is there.

    Args:
        service: Where the model runs.
        info: What it serves: replies of another model, template or precision are others.
        dataset: Instructed scenarios.
        generation: Length and sampling.
        store: Replies by the digest of all that they depend on.
        again: Generate all the same, and replace what is stored.
        report: Takes a line of progress.

    Raises:
        ServiceError: The service failed; the replies that are there already are kept, and a second run goes on.
    """
    scenarios = (*dataset.positive, *dataset.negative)
    keys = [_key(info, scenario, generation) for scenario in scenarios]
    wanted = {key: s for key, s in zip(keys, scenarios, strict=True) if again or store.get(key) is None}
    n, standing = len(keys), len(keys) - len(wanted)
    if wanted:
        report(f"{dataset.name}: generating {len(wanted)} replies on {info.model} ({standing} of {n} stand already)")

    def one(key: str, scenario: Scenario) -> None:
        reply = service.chat(
            chat_messages(scenario),
            model=info.model,
            max_tokens=generation.max_tokens,
            temperature=generation.temperature,
            top_p=generation.top_p,
            seed=generation.seed,
        )
        store.put(key, {"reply": reply.text, "finish_reason": reply.finish_reason})

    in_flight = max(1, min(MAX_IN_FLIGHT, info.limits.max_num_seqs))
    with ThreadPoolExecutor(in_flight, thread_name_prefix="generate") as pool:
        futures = [pool.submit(one, key, scenario) for key, scenario in wanted.items()]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if done % max(1, len(wanted) // 10) == 0 or done == len(futures):
                    report(f"{dataset.name}: {standing + done} of {n} replies")
        except BaseException:  # the interrupt key, too: nothing that is not running yet is begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    texts = [(store.get(key) or {})["reply"] for key in keys]
    half = dataset.n_scenarios
    return Replies(tuple(texts[:half]), tuple(texts[half:]))


def _key(info: ServiceInfo, scenario: Scenario, generation: Generation) -> str:
    messages = [message.model_dump() for message in chat_messages(scenario)]
    # Greedy replies have no seed in them.
    unused = {"seed"} if generation.temperature == 0 else set()
    return json_sha256([model_identity(info), messages, generation.model_dump(exclude=unused)])
