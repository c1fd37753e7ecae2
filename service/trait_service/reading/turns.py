"""The turns of a chat as its template renders them: found in a prompt by rendering the first messages alone."""

from typing import Any

from trait_core.errors import InvalidRequestError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMClientError
from vllm.renderers.online_renderer import OnlineRenderer

from trait_service.resolving.landmarks import Turns

MAX_MESSAGES = 64
"""Messages of a chat whose turns are looked for: the template is rendered once for each."""


async def turns_of(request: ChatCompletionRequest, renderer: OnlineRenderer) -> Turns:
    """The turns of a chat request.

    Args:
        request: The request, as its route reads it.
        renderer: vLLM's renderer.

    Raises:
        InvalidRequestError: It has too many messages, or the template does not render its first messages alone.
    """
    n_whole = len(request.messages) - bool(request.continue_final_message)
    if n_whole > MAX_MESSAGES:
        raise InvalidRequestError(
            f"scopes turn[i] are for chats of at most {MAX_MESSAGES} messages, not {n_whole}", param="messages"
        )
    beginnings = []
    for n in range(1, n_whole + 1):
        changes = {"messages": request.messages[:n], "add_generation_prompt": False, "continue_final_message": False}
        try:
            rendered = await renderer.render_chat(request.model_copy(update=changes))
        except VLLMClientError as error:
            raise _refused(n, str(error)) from error
        if isinstance(rendered, ErrorResponse):
            raise _refused(n, rendered.error.message)
        engine_inputs: Any = rendered[1][0]  # of tokens, also where images are among them
        beginnings.append(list(engine_inputs["prompt_token_ids"]))
    return Turns(beginnings)


def _refused(n: int, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"scopes turn[i] need the first {n} messages alone: {why}", param="messages")
