"""The forms of a prompt set's file.

A `.txt` file has one user turn on each line. A `.jsonl` file has one JSON object on each line::

    {"prompt": "How do I bake bread?"}                                  a user turn
    {"messages": [{"role": "user", "content": "Hi"}], "id": "greet-1"}  a chat
    {"text": "The sun rises in the"}                                    raw text, for base models
    {"prompt": "Say no.", "response": "No.", "outcome": "complied"}     a reply that is read, not generated

A `.json` file is one set; it may also be the list alone, and a prompt may be its text alone::

    {"name": "Greetings", "description": "...", "system_prompt": "Be brief.",
     "prompts": [{"id": 1, "text": "Hello!", "note": "English"}, {"id": 2, "text": "Salut !", "note": "French"}]}

There `text` (or `prompt`, or `question`) is a user's turn. Under `paragraphs` instead of `prompts`, each `full_text` or `text`
is a passage of raw text. `system_prompt`, of the set or of one prompt, becomes the chat's system message.

`id` is a name for the prompt; without it, the name is a digest of the prompt's texts. An id of a `.json` file, or one that is a
number, is unique in its file alone: the set's name is put before it, as in `greetings/1`. `outcome` is a label for results.
Every further field is kept as metadata; those of a whole set belong to each of its prompts if they are single values.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from trait_client.prompt_sets.prompts import ID_DIGITS, SetPrompt
from trait_core.errors import DatasetError, first_fault
from trait_core.model_identity import digest
from trait_core.schema import Message, Request
from trait_core.text_files import parse_json, read_json, read_lines

SUFFIXES = (".json", ".jsonl", ".txt")

_LISTS = ("prompts", "questions", "paragraphs")
"""Fields of a `.json` set that may hold its prompts; `paragraphs` are raw text."""

_TEXTS = {"prompt": ("text", "question"), "text": ("full_text",)}
"""Kind of prompt in a `.json` set -> fields that may hold its text, besides the kind itself."""

_LABELS = ("name", "description")
"""Fields of a `.json` set that describe it as a whole."""


class _Line(Request):
    """The fields with a meaning; all others are metadata."""

    prompt: Annotated[str, Field(min_length=1, max_length=1_000_000)] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)] | None = None
    text: Annotated[str, Field(min_length=1, max_length=4_000_000)] | None = None
    response: Annotated[str, Field(min_length=1, max_length=4_000_000)] | None = None
    system_prompt: Annotated[str, Field(max_length=1_000_000)] | None = None
    id: Annotated[str, Field(min_length=1, max_length=200)] | int | None = None
    outcome: str | bool | int | float | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("prompt", "messages", "text") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of prompt, messages, text (got {' and '.join(given) or 'none'})")
        if self.system_prompt and self.text is not None:
            raise ValueError("system_prompt belongs to a chat, and text is read without one: write prompt")
        if self.system_prompt and any(message.role == "system" for message in self.messages or ()):
            raise ValueError("give system_prompt or a message of the role system, not both")
        return self


class _Entry(NamedTuple):
    """One line or element: its place for messages, its fields, and the system prompt of its set."""

    where: str
    fields: dict[str, Any]
    system: str | None = None


def read_set(path: Path, name: str, *, raw: bool = False) -> list[SetPrompt]:
    """Read the prompts of one file; empty lines are skipped.

    Args:
        path: The file.
        name: Name of the set.
        raw: A line of a `.txt` file, `prompt`, and `text` of a `.json` file are raw text instead of a user's turn.

    Raises:
        DatasetError: The file cannot be read, a prompt is malformed, or two lines of a `.txt` or `.jsonl` file have one id;
            the message names the file and the line or element.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DatasetError(
            f"{path}: a prompt set is a .json file (an object with prompts), a .jsonl file (one object on each line) or a .txt "
            "file (one turn on each line)"
        )
    prompts: dict[str, SetPrompt] = {}
    places: dict[str, str] = {}
    for entry in _elements(path, raw=raw) if suffix == ".json" else _lines(path, suffix):
        line = _known(entry)
        prompt = _prompt(entry, line, name, raw=raw, in_json=suffix == ".json")
        if suffix == ".json":
            prompt = _renamed(prompt, places)
        elif (earlier := places.get(prompt.prompt_id)) is not None:
            reason = f"has the id {prompt.prompt_id!r}" if line.id is not None else "has the same texts"
            raise DatasetError(f"{entry.where}: {reason} as {earlier}: remove one, or give each its own id")
        places[prompt.prompt_id] = f"line {entry.where.rpartition(':')[2]}"
        prompts[prompt.prompt_id] = prompt
    return list(prompts.values())


# ------------------------------------------------------------------------------------------------------------- the files


def _lines(path: Path, suffix: str) -> Iterator[_Entry]:
    for number, line in enumerate(read_lines(path, "write one prompt on each line"), start=1):
        if line.strip():
            fields = {"prompt": line.strip()} if suffix == ".txt" else _object(path, number, line)
            yield _Entry(f"{path}:{number}", fields)


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    value = parse_json(line, str(path), number)
    if not isinstance(value, dict):
        raise DatasetError(f'{path}:{number}: a line is one JSON object, such as {{"prompt": "..."}}')
    return value


def _elements(path: Path, *, raw: bool) -> Iterator[_Entry]:
    """Elements of a `.json` set, with its own fields among theirs."""
    _, value = read_json(path, "write a prompt set")
    whole: dict[str, Any] = {"prompts": value} if isinstance(value, list) else value
    key = next((key for key in _LISTS if isinstance(whole, dict) and isinstance(whole.get(key), list)), None)
    if key is None:
        raise DatasetError(
            f'{path}: holds no prompts: a prompt set is {{"prompts": [{{"id": 1, "text": "..."}}]}}, or such a list alone'
        )
    system = whole.get("system_prompt")
    if not isinstance(system, str | None):
        raise DatasetError(f"{path}: system_prompt: is a text, and not {json.dumps(system)[:80]}")
    if system and (raw or key == "paragraphs"):
        raise DatasetError(f"{path}: system_prompt belongs to a chat, and raw text is read without one: leave it out")
    shared = {
        name: value
        for name, value in whole.items()
        if name not in {key, "system_prompt", *_LABELS} and isinstance(value, str | int | float | bool)
    }
    if not whole[key]:
        raise DatasetError(f"{path}: {key} is empty")
    for number, element in enumerate(whole[key]):
        where = f"{path}: {key}[{number}]"
        if not isinstance(element, str | dict):
            raise DatasetError(f"{where}: a prompt is a text, or an object with a text, not {json.dumps(element)[:80]}")
        fields = {"text": element} if isinstance(element, str) else element
        yield _Entry(where, shared | _named(fields, "text" if key == "paragraphs" else "prompt"), system)


def _named(fields: dict[str, Any], kind: str) -> dict[str, Any]:
    """The fields of a `.json` set's element, with its text as `kind`: `prompt` or `text`."""
    source = next((name for name in _TEXTS[kind] if name in fields), None)
    if source is None or kind in fields or "messages" in fields:
        return fields
    return {name: value for name, value in fields.items() if name != source} | {kind: fields[source]}


# ------------------------------------------------------------------------------------------------------------ one prompt


def _known(entry: _Entry) -> _Line:
    try:
        return _Line.model_validate({name: value for name, value in entry.fields.items() if name in _Line.model_fields})
    except ValidationError as error:
        raise DatasetError(f"{entry.where}: {first_fault(error)}") from error


def _prompt(entry: _Entry, line: _Line, name: str, *, raw: bool, in_json: bool) -> SetPrompt:
    if raw and (line.messages is not None or line.system_prompt):
        field = "messages are a chat" if line.messages is not None else "system_prompt belongs to a chat"
        raise DatasetError(f"{entry.where}: {field}, which cannot be read as raw text: write prompt or text")
    is_text = line.text is not None or raw
    messages = None if is_text else tuple(_turns(line, entry.system))
    outcome = line.outcome if isinstance(line.outcome, str | None) else json.dumps(line.outcome)
    metadata = {name: value for name, value in entry.fields.items() if name not in _Line.model_fields}
    try:
        json.dumps(metadata, allow_nan=False)
    except ValueError as error:
        raise DatasetError(f"{entry.where}: a field holds NaN or an infinite number, which JSON has not") from error
    unnamed = SetPrompt("", messages, line.text or line.prompt if is_text else None, line.response)
    given = line.id if line.id is None or not (in_json or isinstance(line.id, int)) else f"{name}/{line.id}"
    prompt_id = given if given is not None else digest(unnamed.content())[:ID_DIGITS]
    return SetPrompt(str(prompt_id), messages, unnamed.text, line.response, outcome, name, metadata)


def _turns(line: _Line, system: str | None) -> Iterator[Message]:
    turns = line.messages if line.messages is not None else [Message(role="user", content=line.prompt)]
    own = system if line.system_prompt is None else line.system_prompt
    if own and not any(turn.role == "system" for turn in turns):
        yield Message(role="system", content=own)
    yield from turns


def _renamed(prompt: SetPrompt, taken: dict[str, str]) -> SetPrompt:
    """The prompt with `-2`, `-3`, ... after an id that its file has used before."""
    number, name = 1, prompt.prompt_id
    while name in taken:
        number += 1
        name = f"{prompt.prompt_id}-{number}"
    return SetPrompt(
        name, prompt.messages, prompt.text, prompt.response, prompt.outcome, prompt.prompt_set, prompt.metadata
    )
