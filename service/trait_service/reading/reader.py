"""`POST /v1/activations`: pooled activations of many texts, read in one batch.

Each input becomes one engine request. A given response is part of the engine's prompt (one token is generated, and
never read); with `generate` the reply is read while it is generated.
"""

import asyncio
import contextlib
import secrets
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from starlette.datastructures import State
from trait_core.errors import InvalidRequestError, SteeringFailedError
from trait_core.positions import Positions
from trait_core.schema import (
    RESID_POST,
    ActivationInput,
    ActivationsRequest,
    Generation,
    HookPoint,
    ServiceInfo,
    head_of,
)
from vllm.inputs import tokens_input
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from trait_service.engine.requests import MAX_POOL_INTERVALS
from trait_service.engine.spec import CaptureSpec, TermSpec
from trait_service.engine_link.capture_slots import CaptureSlots
from trait_service.engine_link.engine_client import SteeredEngineClient, last_output
from trait_service.engine_link.run import Run
from trait_service.engine_link.workers import Capture
from trait_service.reading.answer import Reading, ReadText, answer
from trait_service.reading.layer_choice import chosen_layers
from trait_service.reading.places import Places, capture_point
from trait_service.reading.tokenized import InputTokenizer, all_together
from trait_service.resolving.landmarks import LATE_PARTS, TURNS, named
from trait_service.resolving.resolve import ResolvedSteering
from trait_service.resolving.scopes import as_generated, placed, selectors_of

Result = TypeVar("Result")


class ActivationReader:
    """Reads activations through the service's own engine client.

    Args:
        client: The engine.
        state: vLLM's application state: renderer and models.
        shape: The workers' `trait_info`.
        rows: The workers' capture rows, which requests with a lens take as well.
        max_bytes: Size of one answer.
        markers: The model's markers of reasoning, with a space between them; None: those that its tokenizer or template has.
    """

    def __init__(
        self,
        client: SteeredEngineClient,
        state: State,
        shape: dict[str, Any],
        rows: CaptureSlots,
        max_bytes: int,
        markers: str | None = None,
    ) -> None:
        self._client = client
        self._state = state
        self._n_layers: int = shape["n_layers"]
        self._places = Places.of(shape)
        self._pools = rows
        self._max_bytes = max_bytes
        self._inputs = InputTokenizer(client, state, markers)

    @property
    def reasoning_markers(self) -> str | None:
        """The model's markers of reasoning, with a space between them; None if it has none."""
        return None if self._inputs.markers is None else " ".join(self._inputs.markers)

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
        layers = chosen_layers(request.layers, self._n_layers)
        self._places.check(request.at)
        positions = [Positions.parse(text) for text in request.positions]
        names = [str(each) for each in positions]
        if len(set(positions)) < len(positions):
            raise InvalidRequestError(f"positions {names} name one pool twice", param="positions")
        if request.pooling == "mean":
            self._check_size(len(request.inputs) * len(positions), len(layers), request.at)
        selectors = [*positions, *selectors_of(steering)]
        self._inputs.check(selectors)
        texts = await self._inputs.read(request.inputs, base, turns=named(selectors, TURNS))
        if request.generate is None:
            texts = [await self._inputs.placed(text, selectors) for text in texts]
        n_positions = sum(self._check_text(i, text, request, positions) for i, text in enumerate(texts))
        if request.pooling == "none":
            self._check_size(n_positions, len(layers), request.at)
        lora = self._state.openai_serving_models.lora_requests.get(base)
        readings = await all_together(
            [self._read_one(text, request, positions, layers, steering, lora) for text in texts],
        )
        return await asyncio.to_thread(answer, readings, request, base or info.model, info, layers, names, steering)

    async def mean_norms(self, text: str, positions: str) -> np.ndarray:
        """`(n_layers,)` float32: mean token norm of a text over `positions`, residual units.

        A text that is longer than the model's context is read as far as it fits.

        Raises:
            InvalidRequestError: None of the positions is in the context.
        """
        norms: np.ndarray = (await self._capture(text, positions, RESID_POST)).norm[0]
        return norms

    async def means(self, text: str, positions: str, at: HookPoint) -> np.ndarray:
        """`(n_layers, d_model)` float32: mean of what is at a hook point, as `mean_norms` reads a text; residual units.

        Raises:
            InvalidRequestError: None of the positions is in the context.
        """
        means: np.ndarray = (await self._capture(text, positions, at)).mean[0]
        return means

    async def _capture(self, text: str, positions: str, at: HookPoint) -> Capture:
        request = ActivationsRequest(inputs=[ActivationInput(text=text)], positions=[positions], at=at)
        ids = await asyncio.to_thread(self._inputs.encode, text, add_special_tokens=True)
        ids = ids[: self._client.model_config.max_model_len - 1]  # one token is generated
        fits = ReadText(ids, len(ids))
        parsed = [Positions.parse(positions)]
        self._check_text(0, fits, request, parsed)
        reading = await self._read_one(fits, request, parsed, list(range(self._n_layers)), None, None)
        assert reading.capture is not None, "a mean was asked for"
        return reading.capture

    # ------------------------------------------------------------------------------------------------------ checks

    def _check_size(self, n_rows: int, n_layers: int, at: str) -> None:
        width = self._places.width(at)
        size = n_rows * n_layers * width * 4
        if size > self._max_bytes:
            raise InvalidRequestError(
                f"the answer would hold {size} bytes ({n_rows} pools or positions x {n_layers} layers x {width} x 4); "
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
            if request.generate and named([each], LATE_PARTS):
                n_read += len(text.ids) + room
                continue
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
        if request.generate is not None and named(positions, LATE_PARTS):
            return await self._read_twice(text, request, positions, layers, steering, lora)
        given = request.generate is None
        capture = CaptureSpec(
            positions=[each.located(text.landmarks) for each in positions],
            layers=layers,
            at=capture_point(request.at),
            head=head_of(request.at),
            n_prompt=text.n_prompt if given else None,
            n_total=len(text.ids) if given else None,
            each=request.pooling == "none",
            before_steering=request.before_steering,
        )
        run = Run(steering, capture, terms=_terms(steering, text) if given else self._placed(steering, text))
        params = _sampling(request.generate, logprobs=request.logprobs)
        async with self._pools.take(0 if capture.each else len(positions)):
            output = await self._run(run, text.ids, params, lora)
        collected = run.collected[0]
        if collected.capture is None and collected.each is None:
            raise SteeringFailedError("the workers hold no capture of a request that asked for one")
        return Reading(text, output, *self._places.taken(collected, request.at))

    async def _read_twice(
        self,
        text: ReadText,
        request: ActivationsRequest,
        positions: list[Positions],
        layers: list[int],
        steering: ResolvedSteering | None,
        lora: Any,
    ) -> Reading:
        """Generate, then read the reply as a given text: where its parts are is known only then.

        Its last token is left out, as while a reply is generated: it never goes through the model.
        """
        terms = self._placed(steering, text)
        generating = Run(steering, terms=terms)
        output = await self._run(generating, text.ids, _sampling(request.generate, logprobs=False), lora)
        ids = [*text.ids, *output.outputs[0].token_ids[:-1]]
        whole = await self._inputs.placed(replace(text, ids=ids), positions)
        capture = CaptureSpec(
            positions=[each.located(whole.landmarks) for each in positions],
            layers=layers,
            at=capture_point(request.at),
            head=head_of(request.at),
            n_prompt=text.n_prompt,
            n_total=len(ids),
            each=request.pooling == "none",
            before_steering=request.before_steering,
        )
        run = Run(steering, capture, terms=None if terms is None else as_generated(terms, text.n_prompt))
        async with self._pools.take(0 if capture.each else len(positions)):
            await self._run(run, ids, _sampling(None, logprobs=False), lora)
        collected = run.collected[0]
        if generating.collected:
            collected = replace(collected, report=generating.collected[0].report)
        return Reading(text, output, *self._places.taken(collected, request.at))

    def _placed(self, steering: ResolvedSteering | None, text: ReadText) -> list[TermSpec] | None:
        """The terms for a reply that is generated after a text."""
        return None if steering is None else self._client.placer.place(steering.terms, text.ids, text.landmarks.turns)

    async def _run(self, run: Run, ids: list[int], params: SamplingParams, lora: Any) -> RequestOutput:
        outputs = self._client.run(
            run, tokens_input(ids), params, f"activations-{secrets.token_hex(8)}", lora_request=lora
        )
        async with contextlib.aclosing(outputs):
            return await last_output(outputs)


def _terms(steering: ResolvedSteering | None, text: ReadText) -> list[TermSpec] | None:
    """The terms for a text that is given whole."""
    if steering is None:
        return None
    return placed(steering.terms, replace(text.landmarks, response=(text.n_prompt, len(text.ids))))


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
