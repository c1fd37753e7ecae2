"""One prompt of a prompt set, and the digest of a set."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trait_core.errors import InvalidRequestError
from trait_core.model_identity import digest
from trait_core.schema import ActivationInput, Message

ID_DIGITS = 16
"""Digits of the digest that names a prompt without an id."""


@dataclass(frozen=True)
class SetPrompt:
    """One prompt of a set, with its reply if one is given; exactly one of `messages` and `text` is set.

    Attributes:
        prompt_id: Its name, unique among the prompts of a run.
        messages: The chat; its first message is the system prompt, if there is one.
        text: Raw text.
        response: A reply that is read; None if it is generated, or not wanted.
        outcome: A label for results.
        prompt_set: Name of the set: its file's name without the ending.
        metadata: The prompt's further fields, JSON values. Neither they nor `outcome` nor `prompt_set` are read by the model.
    """

    prompt_id: str
    messages: tuple[Message, ...] | None
    text: str | None
    response: str | None = None
    outcome: str | None = None
    prompt_set: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def activation_input(self, chat_template_kwargs: dict[str, Any] | None = None) -> ActivationInput:
        """The prompt as an input of `POST /v1/activations`; a chat is rendered with these variables of the template."""
        if self.messages is None:
            return ActivationInput(text=self.text, response=self.response)
        return ActivationInput(
            messages=list(self.messages), response=self.response, chat_template_kwargs=chat_template_kwargs
        )

    def content(self) -> dict[str, Any]:
        """Texts that the model reads: all fields of a line except its id and its labels."""
        turns = [message.model_dump() for message in self.messages] if self.messages is not None else None
        return {"messages": turns, "text": self.text, "response": self.response}

    @property
    def metadata_json(self) -> str | None:
        """The metadata as JSON; None if there is none."""
        return json.dumps(dict(self.metadata), ensure_ascii=False, sort_keys=True) if self.metadata else None


def text_prompt(text: str) -> SetPrompt:
    """The prompt of a raw text, named by a digest of it."""
    unnamed = SetPrompt("", None, text)
    return dataclasses.replace(unnamed, prompt_id=digest(unnamed.content())[:ID_DIGITS])


def digest_of(prompts: Sequence[SetPrompt]) -> str:
    """Digest of a prompt set: its texts and ids in order, without outcomes and metadata."""
    return digest([[prompt.prompt_id, prompt.content()] for prompt in prompts])


def demand_chats(prompts: Sequence[SetPrompt], chat_template_kwargs: dict[str, Any] | None) -> None:
    """Refuse variables of the chat template for a set without a chat.

    Raises:
        InvalidRequestError: Variables are given and every prompt is raw text.
    """
    if chat_template_kwargs and all(prompt.messages is None for prompt in prompts):
        raise InvalidRequestError(
            "every prompt is raw text, which uses no chat template: leave --template-kwargs out",
            param="chat_template_kwargs",
        )
