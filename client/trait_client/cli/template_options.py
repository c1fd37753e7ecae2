"""Options of commands that send prompts: raw text, and variables of the chat template."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from trait_core.chat_templates import checked_kwargs
from trait_core.errors import InvalidRequestError

Raw = Annotated[
    bool,
    typer.Option("--raw", help="Send prompts as they are, without the chat template: the model continues them."),
]
TemplateKwargs = Annotated[
    list[str] | None,
    typer.Option(
        "--template-kwargs",
        metavar="NAME=VALUE",
        help="Variable of the chat template, such as enable_thinking=false; may be repeated. A value that is no JSON is text.",
    ),
]

_PYTHON = {"True": True, "False": False, "None": None}
"""Words that are meant as values: as text, each would be true in a template."""


def parsed_kwargs(given: Sequence[str] | None, *, raw: bool = False) -> dict[str, Any] | None:
    """The variables of `--template-kwargs`; None for none.

    Raises:
        InvalidRequestError: Not NAME=VALUE, a name that the service sets itself, or `--raw` is given as well.
    """
    values: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not (equals and name.strip()):
            raise InvalidRequestError(
                f"--template-kwargs {text!r} is not NAME=VALUE: write enable_thinking=false",
                param="chat_template_kwargs",
            )
        values[name.strip()] = _value(value.strip())
    if values and raw:
        raise InvalidRequestError(
            "--template-kwargs sets variables of the chat template, which --raw does not use: give one of the two",
            param="chat_template_kwargs",
        )
    try:
        return checked_kwargs(values)
    except ValueError as error:
        raise InvalidRequestError(f"--template-kwargs: {error}", param="chat_template_kwargs") from error


def _value(text: str) -> Any:
    if text in _PYTHON:
        return _PYTHON[text]
    try:
        return json.loads(text)
    except ValueError:
        return text
