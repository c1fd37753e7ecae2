"""The inputs of `POST /v1/activations` as token ids, and the places in them that selectors name."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.datastructures import State
from trait_core.chat_templates import no_chat_template, refused_by_template, unknown_variables
from trait_core.errors import ChatTemplateError, InvalidRequestError, first_fault
from trait_core.intervals import UNBOUNDED
from trait_core.positions import Landmarks, Positions
from trait_core.schema import ActivationInput
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMClientError
from vllm.renderers.online_renderer import OnlineRenderer

from trait_service.engine_link.engine_client import SteeredEngineClient
from trait_service.reading.answer import ReadText
from trait_service.reading.chat_template import ChatTemplate, said_by_template
from trait_service.resolving.landmarks import LATE_PARTS, Finder, Markers, Turns, named

Result = TypeVar("Result")


class InputTokenizer:
    """Renders and tokenizes inputs as vLLM's own routes do.

    Args:
        client: The engine.
        state: vLLM's application state: renderer and models.
        markers: The model's markers of reasoning, with a space between them; None: those that its tokenizer or template has.

    Attributes:
        markers: The markers that are used; None: the model has none.
    """

    def __init__(self, client: SteeredEngineClient, state: State, markers: str | None) -> None:
        self._client = client
        self._state = state
        self._template = ChatTemplate(state.online_renderer)
        self._finder = finder_of(state.online_renderer, markers)
        self.markers = self._finder.markers

    def check(self, selectors: Sequence[Positions]) -> None:
        """Refuse selectors that name parts which no text of this model has; as `Finder.check`."""
        self._finder.check(selectors)

    async def read(self, inputs: Sequence[ActivationInput], base: str | None, *, turns: bool = False) -> list[ReadText]:
        """Token ids of all inputs, in order; the first that cannot be read is refused.

        Args:
            inputs: The inputs.
            base: Served model or adapter; None is the base model.
            turns: Also find the turns of chats.

        Raises:
            InvalidRequestError: Names the input.
        """
        return await all_together([self._read_one(i, item, base, turns=turns) for i, item in enumerate(inputs)])

    async def _read_one(self, i: int, item: ActivationInput, base: str | None, *, turns: bool) -> ReadText:
        where = f"inputs[{i}]"
        try:
            prompt = await self._prompt_ids(item, base)
            self._client.check_prompt(prompt)
            ends = (await self._turns(item, base)).ends(prompt) if turns else []
        except ChatTemplateError as error:
            raise InvalidRequestError(f"{where}: {error}", param=f"{where}.{error.param}") from error
        except ValidationError as error:  # of vLLM's chat request
            raise InvalidRequestError(f"{where}: {first_fault(error)}", param=where) from error
        except (InvalidRequestError, VLLMClientError, ValueError) as error:
            raise InvalidRequestError(f"{where}: {error}", param=where) from error
        if item.token_ids is not None:
            return ReadText(prompt, item.n_prompt or len(prompt))
        response = await asyncio.to_thread(self.encode, item.response) if item.response is not None else []
        if ends:
            ends.append(len(prompt) + len(response) if response else UNBOUNDED)
        return ReadText([*prompt, *response], len(prompt), Landmarks(turns=list(pairwise([0, *ends]))))

    async def placed(self, text: ReadText, selectors: Sequence[Positions]) -> ReadText:
        """The text with the places that only its tokens tell."""
        if not named(selectors, LATE_PARTS):
            return text
        found = await asyncio.to_thread(self._finder.find, text.ids, text.n_prompt, selectors)
        return replace(text, landmarks=replace(found, turns=text.landmarks.turns))

    async def _turns(self, item: ActivationInput, base: str | None) -> Turns:
        """The messages of a chat.

        Raises:
            InvalidRequestError: The input is not a chat, or its template does not render the first messages alone.
        """
        if item.messages is None:
            raise InvalidRequestError("positions turn[i] need an input with messages", param="positions")
        beginnings = []
        for n in range(1, len(item.messages) + 1):
            first = item.model_copy(update={"messages": item.messages[:n], "response": None})
            try:
                ids = await self._prompt_ids(first, base, add_generation_prompt=False)
            except ChatTemplateError as error:
                raise InvalidRequestError(f"positions turn[i] need the first {n} messages alone: {error}") from error
            beginnings.append(ids)
        return Turns(beginnings)

    async def _prompt_ids(
        self, item: ActivationInput, base: str | None, *, add_generation_prompt: bool = True
    ) -> list[int]:
        renderer = self._state.online_renderer
        if item.token_ids is not None:
            renderer.renderer.validate_token_ids(item.token_ids, parameter="token_ids")
            return list(item.token_ids)
        if item.messages is not None:
            engine_inputs = await self._render_chat(item, base, add_generation_prompt=add_generation_prompt)
        else:
            engine_inputs = await renderer.render_completion(
                CompletionRequest(model=base, prompt=item.text, max_tokens=1)
            )
        if isinstance(engine_inputs, ErrorResponse):
            raise InvalidRequestError(engine_inputs.error.message, param=engine_inputs.error.param)
        if engine_inputs[0].get("type") != "token":  # the response is appended to the tokens, and read with them
            raise InvalidRequestError("activations are read from text: leave images, audio and video out")
        return list(engine_inputs[0]["prompt_token_ids"])

    async def _render_chat(self, item: ActivationInput, base: str | None, *, add_generation_prompt: bool) -> Any:
        """The engine's inputs for a chat, or vLLM's refusal, as its chat route would make them.

        Raises:
            ChatTemplateError: There is no template, or it refuses the messages or a variable.
        """
        assert item.messages is not None, "the caller looked"
        if not self._template.exists:
            raise no_chat_template(self._state.openai_serving_models.base_model_paths[0].name)
        known = self._template.variables
        if known is not None and (unknown := [name for name in item.chat_template_kwargs or () if name not in known]):
            raise unknown_variables(unknown, known)
        request = ChatCompletionRequest(
            model=base,
            messages=[message.model_dump() for message in item.messages],
            max_tokens=1,
            add_generation_prompt=add_generation_prompt,
            chat_template_kwargs=item.chat_template_kwargs,
        )
        try:
            rendered = await self._state.online_renderer.render_chat(request)
        except VLLMClientError as error:
            if said_by_template(error):
                raise refused_by_template([message.role for message in item.messages], str(error)) from error
            raise
        return rendered if isinstance(rendered, ErrorResponse) else rendered[1]

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of a text."""
        tokenizer = self._state.online_renderer.renderer.get_tokenizer()
        ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return ids


def finder_of(renderer: OnlineRenderer, markers: str | None) -> Finder:
    """A finder for the served model; `markers` as for `InputTokenizer`."""
    tokenizer = renderer.renderer.get_tokenizer()
    known = Markers.of(markers) if markers is not None else Markers.found(tokenizer, ChatTemplate(renderer).text)
    return Finder(tokenizer.decode, known)


async def all_together(work: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run everything at once; the first failure cancels the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(item) for item in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
