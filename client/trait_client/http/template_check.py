"""Checks of the chat template before many requests are sent."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from trait_core.chat_templates import no_chat_template, refused_by_template, unknown_variables
from trait_core.errors import ServiceError
from trait_core.schema import Message, ServiceInfo

MAX_SHAPES = 64
KEPT = 200
"""Characters of a message that are sent."""


class Tokenizes(Protocol):
    """A client that renders chats: `AsyncTraitClient`."""

    async def tokenize(
        self, text: Sequence[Message], *, chat_template_kwargs: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Token ids of a chat, with the header of the assistant's turn."""
        ...


def require_template(info: ServiceInfo, kwargs: Mapping[str, Any] | None = None) -> None:
    """Refuse messages for a model without a chat template, and variables that its template does not use.

    Raises:
        ChatTemplateError: Either of the two.
    """
    if not info.has_chat_template:
        raise no_chat_template(info.model)
    known = info.chat_template_variables
    if known is not None and (unknown := [name for name in kwargs or () if name not in known]):
        raise unknown_variables(unknown, known)


async def check_template(
    client: Tokenizes, info: ServiceInfo, chats: Iterable[Sequence[Message]], kwargs: Mapping[str, Any] | None = None
) -> None:
    """Render one short chat of each shape (roles, and whether a message is empty) before the chats are sent.

    Args:
        client: The service.
        info: Its description.
        chats: The chats that will be sent; nothing is checked if there are none.
        kwargs: Variables of the chat template.

    Raises:
        ChatTemplateError: The model has no chat template, or it refuses a shape or a variable; the message has its words.
        ServiceError: The service does not answer.
    """
    shapes: dict[tuple[tuple[str, bool], ...], Sequence[Message]] = {}
    for chat in chats:
        shapes.setdefault(tuple((turn.role, bool(turn.content)) for turn in chat), chat)
    if shapes:
        require_template(info, kwargs)
    for chat in list(shapes.values())[:MAX_SHAPES]:
        try:
            await client.tokenize([_short(turn) for turn in chat], chat_template_kwargs=kwargs)
        except ServiceError as error:
            if error.status != 400:
                raise
            raise refused_by_template([turn.role for turn in chat], str(error)) from error


def _short(turn: Message) -> Message:
    if not isinstance(turn.content, str):
        return turn
    return turn.model_copy(update={"content": turn.content[:KEPT]})
