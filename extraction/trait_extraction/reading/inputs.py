"""Scenarios as the service reads them."""

from typing import Any

from trait_core.schema import ActivationInput, Message

from trait_extraction.data.continued import ContinuedScenario, raw_text
from trait_extraction.data.datasets import TraitDataset
from trait_extraction.data.scenarios import Scenario


def activation_input(
    dataset: TraitDataset, scenario: Scenario, chat_template_kwargs: dict[str, Any] | None = None
) -> ActivationInput:
    """Raw text for base models, or the very tokens that the model generated; else a chat and its reply, if it has one."""
    if isinstance(scenario, ContinuedScenario):
        return ActivationInput(token_ids=[*scenario.prompt_ids, *scenario.token_ids], n_prompt=len(scenario.prompt_ids))
    if dataset.is_raw:
        return ActivationInput(text=raw_text(scenario), response=scenario.response)
    return ActivationInput(
        messages=chat_messages(scenario), response=scenario.response, chat_template_kwargs=chat_template_kwargs
    )


def chat_messages(scenario: Scenario) -> list[Message]:
    """The chat before the reply."""
    system = [] if scenario.system_prompt is None else [Message(role="system", content=scenario.system_prompt)]
    return [*system, Message(role="user", content=scenario.prompt)]
