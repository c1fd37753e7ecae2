"""Chat templates: the variables that a request may set, and the refusals that have one wording everywhere."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trait_core.errors import ChatTemplateError

MAX_VARIABLES = 64
MAX_BYTES = 100_000

RESERVED = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)
"""Names that the program that renders a template gives a meaning of its own."""


def checked_kwargs(kwargs: dict[str, Any] | None) -> dict[str, Any] | None:
    """The variables of a template, None for none.

    Raises:
        ValueError: Too many, too large, no finite JSON, or a name that the service sets itself.
    """
    if not kwargs:
        return None
    if reserved := sorted(RESERVED & kwargs.keys()):
        raise ValueError(f"{reserved[0]!r} is set by the service: give variables of the chat template only")
    if len(kwargs) > MAX_VARIABLES:
        raise ValueError(f"{len(kwargs)} variables are given; at most {MAX_VARIABLES}")
    size = len(kwargs_text(kwargs) or "")
    if size > MAX_BYTES:
        raise ValueError(f"the variables take {size} characters; at most {MAX_BYTES}")
    return kwargs


def kwargs_text(kwargs: Mapping[str, Any] | None) -> str | None:
    """The variables as JSON with sorted names, for identities and tables; None for none.

    Raises:
        ValueError: A number is not finite.
    """
    return json.dumps(kwargs, sort_keys=True, ensure_ascii=False, allow_nan=False) if kwargs else None


def no_chat_template(model: str) -> ChatTemplateError:
    """The error for messages that are meant for a model without a chat template."""
    return ChatTemplateError(
        f"{model} has no chat template (it is a base model), so it cannot take messages: send raw text (`trait-client steer "
        "--raw`, raw = true in an experiment, POST /v1/completions over HTTP), or serve it with --chat-template FILE",
        param="messages",
    )


def refused_by_template(roles: Sequence[str], words: str) -> ChatTemplateError:
    """The error for messages that a chat template refuses, in its own words."""
    shown = ", ".join(roles[:6]) + (", ..." if len(roles) > 6 else "")
    return ChatTemplateError(f"the model's chat template refuses messages of {shown}: {words}", param="messages")


def unknown_variables(names: Sequence[str], known: Sequence[str]) -> ChatTemplateError:
    """The error for variables that a chat template does not use."""
    shown = ", ".join(repr(name[:80]) for name in names)
    return ChatTemplateError(
        f"the model's chat template does not use {shown} of chat_template_kwargs: it uses {', '.join(known) or 'no variable'}",
        param="chat_template_kwargs",
    )
