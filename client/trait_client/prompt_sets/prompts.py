"""Prompt sets: files of prompts, with or without replies.

A `.txt` file has one user turn on each line. A `.jsonl` file has one JSON object on each line::

    {"prompt": "How do I bake bread?"}                                  a user turn
    {"messages": [{"role": "user", "content": "Hi"}], "id": "greet-1"}  a chat
    {"text": "The sun rises in the"}                                    raw text, for base models
    {"prompt": "Say no.", "response": "No.", "outcome": "complied"}     a reply that is read, not generated

`id` is a name for the prompt; without it, the name is a digest of the line's texts. `outcome` is a label for results.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from trait_core.errors import DatasetError, InvalidRequestError, first_fault
from trait_core.model_identity import digest
from trait_core.schema import ActivationInput, Message, Request
from trait_core.text_files import parse_json, read_lines

ID_DIGITS = 16


@dataclass(frozen=True)
class SetPrompt:
    """One prompt of a set, with its reply if one is given; exactly one of `messages` and `text` is set."""

    prompt_id: str
    messages: tuple[Message, ...] | None
    text: str | None
    response: str | None = None
    outcome: str | None = None

    def activation_input(self, chat_template_kwargs: dict[str, Any] | None = None) -> ActivationInput:
        """The prompt as an input of `POST /v1/activations`; a chat is rendered with these variables of the template."""
        if self.messages is None:
            return ActivationInput(text=self.text, response=self.response)
        return ActivationInput(
            messages=list(self.messages), response=self.response, chat_template_kwargs=chat_template_kwargs
        )

    def content(self) -> dict[str, Any]:
        """Texts that the model reads: all fields of a line except its id and outcome."""
        turns = [message.model_dump() for message in self.messages] if self.messages is not None else None
        return {"messages": turns, "text": self.text, "response": self.response}


class _Line(Request):
    prompt: Annotated[str, Field(min_length=1, max_length=1_000_000)] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)] | None = None
    text: Annotated[str, Field(min_length=1, max_length=4_000_000)] | None = None
    response: Annotated[str, Field(min_length=1, max_length=4_000_000)] | None = None
    id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    outcome: str | bool | int | float | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("prompt", "messages", "text") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of prompt, messages, text (got {' and '.join(given) or 'none'})")
        return self

    def as_prompt(self, *, raw: bool) -> SetPrompt:
        messages, text = self.messages, self.text
        if self.prompt is not None and raw:
            text = self.prompt
        elif self.prompt is not None:
            messages = [Message(role="user", content=self.prompt)]
        outcome = self.outcome if isinstance(self.outcome, str | None) else json.dumps(self.outcome)
        unnamed = SetPrompt("", tuple(messages) if messages is not None else None, text, self.response, outcome)
        return SetPrompt(
            self.id or digest(unnamed.content())[:ID_DIGITS], unnamed.messages, text, self.response, outcome
        )


def read_prompts(path: str | Path, *, raw: bool = False) -> list[SetPrompt]:
    """Read a prompt set; empty lines are skipped.

    Args:
        path: The file.
        raw: Lines of a `.txt` file, and `prompt` of a `.jsonl` file, are raw text instead of a user's turn.

    Raises:
        DatasetError: The file cannot be read, a line is malformed, or two lines have one id; the message names file
            and line.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in {".jsonl", ".txt"}:
        raise DatasetError(
            f"{path}: a prompt set is a .jsonl file (one object on each line) or a .txt file (one turn on each line)"
        )
    first_line: dict[str, int] = {}
    prompts = []
    for number, line in enumerate(read_lines(path, "write one prompt on each line"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        fields = {"prompt": line.strip()} if suffix == ".txt" else _object(path, number, line)
        read = _read_line(where, fields)
        if raw and read.messages is not None:
            raise DatasetError(f"{where}: messages are a chat, which cannot be read as raw text: write prompt or text")
        prompt = read.as_prompt(raw=raw)
        if (earlier := first_line.setdefault(prompt.prompt_id, number)) != number:
            reason = f"has the id {prompt.prompt_id!r}" if read.id is not None else "has the same texts"
            raise DatasetError(f"{where}: {reason} as line {earlier}: remove one, or give each its own id")
        prompts.append(prompt)
    return prompts


def digest_of(prompts: Sequence[SetPrompt]) -> str:
    """Digest of a prompt set: its texts and ids in order, without the outcomes."""
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


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    value = parse_json(line, str(path), number)
    if not isinstance(value, dict):
        raise DatasetError(f'{path}:{number}: a line is one JSON object, such as {{"prompt": "..."}}')
    return value


def _read_line(where: str, fields: dict[str, Any]) -> _Line:
    try:
        return _Line.model_validate(fields)
    except ValidationError as error:
        raise DatasetError(f"{where}: {first_fault(error)}") from error
