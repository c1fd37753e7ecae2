"""`POST /v1/activations`: pooled activations of many texts, read in one batch.

Each input becomes one engine request. A given response is part of the engine's prompt (one token is generated, and
never read); with `generate` the reply is read while it is generated.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError
from starlette.datastructures import State
from trait_core.chat_templates import no_chat_template, refused_by_template, unknown_variables
from trait_core.errors import ChatTemplateError, InvalidRequestError, SteeringFailedError, first_fault
from trait_core.intervals import UNBOUNDED
from trait_core.positions import Landmarks, Positions
from trait_core.schema import ActivationInput, ActivationsRequest, Generation, ServiceInfo
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMClientError
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams

from trait_service.engine.requests import MAX_POOL_INTERVALS
from trait_service.engine.spec import CaptureSpec, TermSpec
from trait_service.engine_link.engine_client import Run, SteeredEngineClient, last_output
from trait_service.reading.answer import Reading, ReadText, answer
from trait_service.reading.capture_slots import CaptureSlots
from trait_service.reading.chat_template import ChatTemplate, said_by_template
from trait_service.resolving.resolve import ResolvedSteering
from trait_service.resolving.scopes import placed

Result = TypeVar("Result")


class ActivationReader:
    """Reads activations through the service's own engine client.

    Args:
        client: The engine.
        state: vLLM's application state: renderer and models.
        shape: The workers' `trait_info`.
        max_bytes: Size of one answer.
    """

    def __init__(self, client: SteeredEngineClient, state: State, shape: dict[str, Any], max_bytes: int) -> None:
        self._client = client
        self._state = state
        self._template = ChatTemplate(state.online_renderer)
        self._n_layers: int = shape["n_layers"]
        self._d_model: int = shape["d_model"]
        self._pools = CaptureSlots(shape["capture_rows"])
        self._max_bytes = max_bytes

    async def read(
        self, request: ActivationsRequest, base: str | None, steering: ResolvedSteering | None, info: ServiceInfo
    ) -> bytes:
        """The safetensors answer (`ActivationsMetadata`).

        Args:
            request: The request; its model and steering are already resolved.
            base: Served model or adapter; None is the base model.
            steering: None reads unsteered.
            info: The served model, for the metadata.

        Raises:
            InvalidRequestError: An input cannot be read as asked; the message names it.
            SteeringFailedError: The engine failed on an input.
        """
        layers = self._layers(request.layers)
        positions = [Positions.parse(text) for text in request.positions]
        names = [str(each) for each in positions]
        if len(set(positions)) < len(positions):
            raise InvalidRequestError(f"positions {names} name one pool twice", param="positions")
        if request.pooling == "mean":
            self._check_size(len(request.inputs) * len(positions), len(layers))
        texts = await self._tokenize(request.inputs, base, turns=needs_turns(positions))
        n_positions = sum(self._check_text(i, text, request, positions) for i, text in enumerate(texts))
        if request.pooling == "none":
            self._check_size(n_positions, len(layers))
        lora = self._state.openai_serving_models.lora_requests.get(base)
        readings = await _all(
            [self._read_one(text, request, positions, layers, steering, lora) for text in texts],
        )
        return await asyncio.to_thread(answer, readings, request, base or info.model, info, layers, names, steering)

    async def mean_norms(self, text: str, positions: str) -> np.ndarray:
        """`(n_layers,)` float32: mean token norm of a text over `positions`, residual units.

        A text that is longer than the model's context is read as far as it fits.

        Raises:
            InvalidRequestError: None of the positions is in the context.
        """
        request = ActivationsRequest(inputs=[ActivationInput(text=text)], positions=[positions])
        ids = await asyncio.to_thread(self._encode, text, add_special_tokens=True)
        ids = ids[: self._client.model_config.max_model_len - 1]  # one token is generated
        fits = ReadText(ids, len(ids))
        parsed = [Positions.parse(positions)]
        self._check_text(0, fits, request, parsed)
        reading = await self._read_one(fits, request, parsed, list(range(self._n_layers)), None, None)
        assert reading.capture is not None, "a mean was asked for"
        norms: np.ndarray = reading.capture.norm[0]
        return norms

    # ------------------------------------------------------------------------------------------ texts to token ids

    async def _tokenize(
        self, inputs: Sequence[ActivationInput], base: str | None, *, turns: bool = False
    ) -> list[ReadText]:
        return await _all([self._tokenize_one(i, item, base, turns=turns) for i, item in enumerate(inputs)])

    async def _tokenize_one(self, i: int, item: ActivationInput, base: str | None, *, turns: bool) -> ReadText:
        where = f"inputs[{i}]"
        try:
            prompt = await self._prompt_ids(item, base)
            self._client.check_prompt(prompt)
            ends = await self._turn_ends(item, base, prompt) if turns else []
        except ChatTemplateError as error:
            raise InvalidRequestError(f"{where}: {error}", param=f"{where}.{error.param}") from error
        except ValidationError as error:  # of vLLM's chat request
            raise InvalidRequestError(f"{where}: {first_fault(error)}", param=where) from error
        except (InvalidRequestError, VLLMClientError, ValueError) as error:
            raise InvalidRequestError(f"{where}: {error}", param=where) from error
        if item.token_ids is not None:
            return ReadText(prompt, item.n_prompt or len(prompt))
        response = await asyncio.to_thread(self._encode, item.response) if item.response is not None else []
        if ends:
            ends.append(len(prompt) + len(response) if response else UNBOUNDED)
        return ReadText([*prompt, *response], len(prompt), Landmarks(turns=list(pairwise([0, *ends]))))

    async def _turn_ends(self, item: ActivationInput, base: str | None, prompt: list[int]) -> list[int]:
        """One past the last token of each message of a chat.

        Raises:
            InvalidRequestError: The input is not a chat, or its template does not render turns one after another.
        """
        if item.messages is None:
            raise InvalidRequestError("positions turn[i] need an input with messages", param="positions")
        ends = []
        for n in range(1, len(item.messages) + 1):
            first = item.model_copy(update={"messages": item.messages[:n], "response": None})
            try:
                ids = await self._prompt_ids(first, base, add_generation_prompt=False)
            except ChatTemplateError as error:
                raise InvalidRequestError(f"positions turn[i] need the first {n} messages alone: {error}") from error
            if prompt[: len(ids)] != ids:
                raise InvalidRequestError(
                    "positions turn[i]: this model's chat template does not render turns one after another",
                    param="positions",
                )
            ends.append(len(ids))
        return ends

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

    def _encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        tokenizer = self._state.online_renderer.renderer.get_tokenizer()
        ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return ids

    # ------------------------------------------------------------------------------------------------------ checks

    def _layers(self, layers: list[int] | None) -> list[int]:
        if layers is None:
            return list(range(self._n_layers))
        for layer in layers:
            if layer >= self._n_layers:
                raise InvalidRequestError(f"layer {layer} is out of range: 0..{self._n_layers - 1}", param="layers")
        if len(set(layers)) < len(layers):
            raise InvalidRequestError(f"layers {layers[:32]} name a layer twice", param="layers")
        return sorted(layers)

    def _check_size(self, n_rows: int, n_layers: int) -> None:
        size = n_rows * n_layers * self._d_model * 4
        if size > self._max_bytes:
            raise InvalidRequestError(
                f"the answer would hold {size} bytes ({n_rows} pools or positions x {n_layers} layers x {self._d_model} x 4); "
                f"at most {self._max_bytes} (--max-activation-bytes): send fewer inputs at once, or name the layers",
                param="inputs",
            )

    def _check_text(self, i: int, text: ReadText, request: ActivationsRequest, positions: list[Positions]) -> int:
        """Refuse a text that cannot be read as asked; returns how many positions are, over all pools, at most."""
        where = f"inputs[{i}]"
        longest = self._client.model_config.max_model_len
        room = request.generate.max_tokens if request.generate else 1
        if len(text.ids) + room > longest:
            raise InvalidRequestError(
                f"{where} has {len(text.ids)} tokens; with {room} to generate at most {longest - room} fit into the "
                f"model's {longest}",
                param=where,
            )
        if not text.ids:
            raise InvalidRequestError(f"{where} has no tokens", param=where)
        if request.logprobs and not 0 < text.n_prompt < len(text.ids):
            raise InvalidRequestError(
                f"{where}: logprobs need a prompt and a response; it has {text.n_prompt} prompt tokens and "
                f"{len(text.ids) - text.n_prompt} of response",
                param=where,
            )
        n_total = None if request.generate else len(text.ids)
        n_read = n_intervals = 0
        for each in positions:
            intervals = each.located(text.landmarks).intervals(text.n_prompt, n_total)
            if not intervals:
                raise InvalidRequestError(
                    f"{where}: positions {each} are empty (prompt {text.n_prompt} tokens, response "
                    f"{len(text.ids) - text.n_prompt})",
                    param=where,
                )
            longest_text = len(text.ids) + (room if request.generate else 0)
            n_read += sum(each.below(longest_text) for each in intervals)
            n_intervals += len(intervals)
        if n_intervals > MAX_POOL_INTERVALS:
            raise InvalidRequestError(
                f"{where}: the positions come to {n_intervals} intervals; at most {MAX_POOL_INTERVALS} in one request",
                param="positions",
            )
        return n_read

    # ----------------------------------------------------------------------------------------------------- reading

    async def _read_one(
        self,
        text: ReadText,
        request: ActivationsRequest,
        positions: list[Positions],
        layers: list[int],
        steering: ResolvedSteering | None,
        lora: Any,
    ) -> Reading:
        given = request.generate is None
        capture = CaptureSpec(
            positions=[each.located(text.landmarks) for each in positions],
            layers=layers,
            n_prompt=text.n_prompt if given else None,
            n_total=len(text.ids) if given else None,
            each=request.pooling == "none",
            before_steering=request.before_steering,
        )
        run = Run(steering, capture, terms=_terms(steering, text) if given else None)
        params = _sampling(request.generate, logprobs=request.logprobs)
        async with self._pools.take(0 if capture.each else len(positions)):
            outputs = self._client.run(
                run, tokens_input(text.ids), params, f"activations-{secrets.token_hex(8)}", lora_request=lora
            )
            async with contextlib.aclosing(outputs):
                output = await last_output(outputs)
        collected = run.collected[0]
        if collected.capture is None and collected.each is None:
            raise SteeringFailedError("the workers hold no capture of a request that asked for one")
        return Reading(text, output, collected, collected.capture)


def _terms(steering: ResolvedSteering | None, text: ReadText) -> list[TermSpec] | None:
    """The terms for a text that is given whole."""
    if steering is None:
        return None
    return placed(steering.terms, replace(text.landmarks, response=(text.n_prompt, len(text.ids))))


def needs_turns(positions: Sequence[Positions]) -> bool:
    """True if some positions are turns of a chat."""
    return any(item.part == "turn" for each in positions for item in each.items)


def _sampling(generate: Generation | None, *, logprobs: bool) -> SamplingParams:
    if generate is None:
        return SamplingParams(
            max_tokens=1,
            temperature=0.0,
            detokenize=False,
            prompt_logprobs=0 if logprobs else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
    return SamplingParams(
        max_tokens=generate.max_tokens,
        temperature=generate.temperature,
        top_p=generate.top_p,
        seed=generate.seed,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


async def _all(work: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run everything at once; the first failure cancels the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(item) for item in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
