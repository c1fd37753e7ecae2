"""Scenarios as the service reads them."""

from trait_core.schema import ActivationInput, Message

from trait_extraction.data.datasets import TraitDataset
from trait_extraction.data.scenarios import Scenario


def activation_input(dataset: TraitDataset, scenario: Scenario) -> ActivationInput:
    """Raw text for base models, else a chat and its reply, if it has one."""
    if dataset.style == "completions":
        return ActivationInput(text=scenario.prompt, response=scenario.response)
    return ActivationInput(messages=chat_messages(scenario), response=scenario.response)


def chat_messages(scenario: Scenario) -> list[Message]:
    """The chat before the reply."""
    system = [] if scenario.system_prompt is None else [Message(role="system", content=scenario.system_prompt)]
    return [*system, Message(role="user", content=scenario.prompt)]
