"""The served model's chat template, as vLLM's renderer finds and applies it."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.sandbox
from trait_core.chat_templates import RESERVED
from vllm.renderers.hf import AssistantTracker, HfRenderer, resolve_chat_template
from vllm.renderers.online_renderer import OnlineRenderer

_FUNCTIONS = frozenset({"raise_exception", "strftime_now"})
"""Functions that transformers gives every template."""


class ChatTemplate:
    """The template of chats without tools.

    Args:
        renderer: vLLM's renderer of requests.
    """

    def __init__(self, renderer: OnlineRenderer) -> None:
        self._renderer = renderer
        self._tokenizer: Any = renderer.renderer.get_tokenizer()  # vLLM names no common type of tokenizers

    @cached_property
    def _text(self) -> str | None:
        """Jinja text; None if there is none, or if code of vLLM's renders chats (Mistral, gpt-oss, DeepSeek V3.2)."""
        if not self._is_text:
            return None
        renderer = self._renderer
        return resolve_chat_template(self._tokenizer, renderer.chat_template, None, model_config=renderer.model_config)

    @property
    def _is_text(self) -> bool:
        return isinstance(self._renderer.renderer, HfRenderer) and not self._renderer.use_harmony

    @property
    def text(self) -> str | None:
        """Jinja text; None if the model has no template of that kind."""
        return self._text

    @property
    def exists(self) -> bool:
        """True if the model can be sent messages."""
        return not self._is_text or self._text is not None

    @cached_property
    def variables(self) -> list[str] | None:
        """Variables that a request may set; vLLM ignores others. None if they are not known."""
        if self._text is None:
            return [] if self._is_text else None
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            extensions=[AssistantTracker, jinja2.ext.loopcontrols]
        )
        try:
            used = jinja2.meta.find_undeclared_variables(environment.parse(self._text))
        except jinja2.TemplateError:
            return None  # a request will show vLLM's words
        tokens = self._tokenizer.special_tokens_map.keys()
        return sorted(used - RESERVED - _FUNCTIONS - environment.globals.keys() - tokens)


def said_by_template(error: BaseException) -> bool:
    """Tell whether an error comes from a template, which refuses messages by `raise_exception` or stumbles over them."""
    return any(isinstance(each, jinja2.TemplateError) for each in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
