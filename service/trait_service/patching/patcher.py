"""`POST /v1/patch`: the source is read once, then the target runs once for each cell and answer, all in one batch.

The metric is read from prompts that end with an answer's first token: its log-probability is right however unlikely it is.
vLLM's `logprob_token_ids` would need half the runs, but its first model runner then answers wrong log-probabilities to
other requests of the batch.
"""

import contextlib
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from starlette.datastructures import State
from trait_core.errors import InvalidRequestError, SteeringFailedError
from trait_core.positions import Positions
from trait_core.schema import (
    SHA256_PREFIX,
    HookPoint,
    PatchAnswer,
    PatchCell,
    PatchReport,
    PatchRequest,
    PatchRun,
    PositionScope,
    ServiceInfo,
    SteeringTerm,
)
from vllm.inputs import tokens_input
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from trait_service.engine.sites import missing
from trait_service.engine.spec import CaptureSpec
from trait_service.engine_link.engine_client import SteeredEngineClient, last_output
from trait_service.engine_link.run import Run
from trait_service.patching.alignment import Alignment, Cell, align, cells, restored_share, units
from trait_service.patching.prompts import PromptTokenizer, Tokenized, selected
from trait_service.reading.layer_choice import chosen_layers
from trait_service.reading.tokenized import InputTokenizer, all_together
from trait_service.resolving.given import INLINE, identified
from trait_service.resolving.resolve import ResolvedSteering, ResolvedTerm

Logprobs = tuple[float, float]
"""Log-probabilities of the source's answer and of the target's, nats."""


class Patcher:
    """Runs a prompt with streams of another in it.

    Args:
        client: The engine.
        state: vLLM's application state: renderer and models.
        shape: The workers' `trait_info`.
        terms_per_layer: Positions that are patched together, at most.
        max_bytes: Size of the source's streams.
    """

    def __init__(
        self, client: SteeredEngineClient, state: State, shape: dict[str, Any], terms_per_layer: int, max_bytes: int
    ) -> None:
        self._client = client
        self._models = state.openai_serving_models
        self._prompts = PromptTokenizer(
            InputTokenizer(client, state, None),
            state.online_renderer.renderer.get_tokenizer().decode,
            client.model_config.max_model_len - 2,  # an answer's first token, and one that is generated
        )
        self._n_layers: int = shape["n_layers"]
        self._d_model: int = shape["d_model"]
        self._hook_points: list[HookPoint] = shape["hook_points"]
        self._together = terms_per_layer
        self._max_bytes = max_bytes

    async def patch(self, request: PatchRequest, base: str | None, info: ServiceInfo) -> PatchReport:
        """Run every cell.

        Args:
            request: The request; its model is already resolved.
            base: Served model or adapter; None is the base model.
            info: The served model, for the report.

        Raises:
            InvalidRequestError: A prompt, a span, an answer or a layer cannot be used; the message names it.
            SteeringFailedError: The engine failed on a run.
        """
        layers, points = chosen_layers(request.layers, self._n_layers), self._points(request.at)
        source, target = await self._prompts.read(request, base)
        spans = None if source.span is None or target.span is None else (source.span, target.span)
        alignment = align(len(source.ids), len(target.ids), spans)
        pairs = alignment.pairs
        if request.positions is not None:
            wanted = selected(request.positions, len(target.ids))
            pairs = [pair for pair in pairs if pair.target in wanted]
        planned = cells(units(pairs, request.parts, self._together), layers, points)
        self._check_size(len(source.ids) * len(points), len(layers))
        lora = self._models.lora_requests.get(base)
        read = await all_together([self._streams(source.ids, layers, at, lora) for at in points])
        streams = dict(zip(points, read, strict=True))
        patches = [replacing(cell, streams[cell.at][:, layers.index(cell.layer)], info) for cell in planned]
        runs = [(source, None), (target, None), *((target, each) for each in patches)]
        found = await all_together([self._logprob(text, i, each, lora) for text, each in runs for i in (0, 1)])
        logprobs = list(zip(found[::2], found[1::2], strict=True))
        measured = Measured((source, target), alignment, planned, logprobs)
        answers = self._answer(request.source.answer, source, 0), self._answer(request.target.answer, source, 1)
        return report(measured, base or info.model, info, answers)

    def _answer(self, text: str, prompt: Tokenized, which: int) -> PatchAnswer:
        token = prompt.answers[which]
        return PatchAnswer(text=text, token_id=token, token=self._prompts.text(token))

    def _points(self, at: Sequence[HookPoint]) -> list[HookPoint]:
        for point in at:
            if point not in self._hook_points:
                raise InvalidRequestError(missing(point), param="at")
        return list(dict.fromkeys(at))

    def _check_size(self, n_positions: int, n_layers: int) -> None:
        size = n_positions * n_layers * self._d_model * 4
        if size > self._max_bytes:
            raise InvalidRequestError(
                f"the source's streams would hold {size} bytes ({n_positions} positions x {n_layers} layers x {self._d_model} x "
                f"4); at most {self._max_bytes} (--max-activation-bytes): name the layers",
                param="layers",
            )

    # --------------------------------------------------------------------------------------------------------- runs

    async def _streams(self, ids: list[int], layers: list[int], at: HookPoint, lora: Any) -> np.ndarray:
        """`(n_positions, n_layers_read, d_model)` float32: what the source has at a hook point, residual units."""
        capture = CaptureSpec(
            positions=[Positions.parse("all[:]")], layers=layers, at=at, n_prompt=len(ids), n_total=len(ids), each=True
        )
        run = Run(capture=capture)
        await self._run(run, ids, lora, prompt_logprobs=None)
        each = run.collected[0].each
        if each is None or len(each) != len(ids):
            raise SteeringFailedError(f"the workers did not keep all of the source's {len(ids)} positions")
        return each

    async def _logprob(self, text: Tokenized, answer: int, patch: ResolvedSteering | None, lora: Any) -> float:
        """Log-probability of an answer's first token behind a prompt, nats."""
        token, run = text.answers[answer], Run(patch)
        output = await self._run(run, [*text.ids, token], lora, prompt_logprobs=0)
        if patch is not None and (n := run.collected[0].report.steered_prompt) != len(patch.applied):
            raise SteeringFailedError(f"the workers patched {n} of {len(patch.applied)} positions")
        entry = output.prompt_logprobs[-1] if output.prompt_logprobs else None
        if entry is None:
            raise SteeringFailedError("the engine gave no log-probability of an answer")
        return float(entry[token].logprob)

    async def _run(self, run: Run, ids: list[int], lora: Any, *, prompt_logprobs: int | None) -> RequestOutput:
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            detokenize=False,
            prompt_logprobs=prompt_logprobs,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        outputs = self._client.run(run, tokens_input(ids), params, f"patch-{secrets.token_hex(8)}", lora_request=lora)
        async with contextlib.aclosing(outputs):
            return await last_output(outputs)


def replacing(cell: Cell, streams: np.ndarray, info: ServiceInfo) -> ResolvedSteering:
    """The steering of a cell: each of its positions is given what the source has at the partner.

    Args:
        cell: The cell.
        streams: `(n_positions, d_model)` float32: what the source has at the cell's hook point and layer.
        info: The served model.

    Raises:
        SteeringFailedError: A stream is not finite.
    """
    norm = info.residual_norms[cell.layer]
    return ResolvedSteering(tuple(_replaced(cell, pair.target, streams[pair.source], norm) for pair in cell.unit.pairs))


def _replaced(cell: Cell, position: int, stream: np.ndarray, residual_norm: float) -> ResolvedTerm:
    """The term that makes one position's stream another one, `(d_model,)` float32."""
    wide = stream.astype(np.float64)
    norm = float(np.linalg.norm(wide))
    if not np.isfinite(norm):
        raise SteeringFailedError(f"the source has a stream of norm {norm} at {cell.at} of layer {cell.layer}")
    unit = wide / norm if norm else np.eye(1, len(wide))[0]  # of length 0 in any direction
    digest, raw = identified(unit.astype(np.float32))
    shared: dict[str, Any] = {
        "vector": INLINE,
        "coefficient": norm,
        "unit": "raw",
        "operation": "replace",
        "at": cell.at,
        "scope": PositionScope(positions=[position, position + 1]),
    }
    return ResolvedTerm(
        **shared,
        asked=SteeringTerm(**shared, layers=[cell.layer]),
        layer=cell.layer,
        a=norm,
        relative_dose=norm / residual_norm,
        sha256=SHA256_PREFIX + digest,
        direction=digest,
        raw=raw,
    )


class Measured(NamedTuple):
    """All runs of a request.

    Attributes:
        prompts: Source and target.
        alignment: Their partners.
        planned: The cells.
        logprobs: Those of the source, of the target, then of each cell.
    """

    prompts: tuple[Tokenized, Tokenized]
    alignment: Alignment
    planned: Sequence[Cell]
    logprobs: Sequence[Logprobs]


def report(measured: Measured, model: str, info: ServiceInfo, answers: tuple[PatchAnswer, PatchAnswer]) -> PatchReport:
    """The answer: metrics and restored shares of all runs.

    Args:
        measured: The runs.
        model: The served name that answers.
        info: The served model.
        answers: The source's, then the target's.
    """
    differences = [first - second for first, second in measured.logprobs]
    left_out = measured.alignment.source_left_out, measured.alignment.target_left_out
    source, target = (
        PatchRun(tokens=text.texts, span=text.span, logprobs=pair, difference=difference, left_out=alone)
        for text, pair, difference, alone in zip(
            measured.prompts, measured.logprobs[:2], differences[:2], left_out, strict=True
        )
    )
    found = [
        PatchCell(
            part=cell.unit.part,
            positions=[pair.target for pair in cell.unit.pairs],
            source_positions=[pair.source for pair in cell.unit.pairs],
            layer=cell.layer,
            at=cell.at,
            logprobs=pair,
            difference=difference,
            restored=restored_share(difference, source.difference, target.difference),
        )
        for cell, pair, difference in zip(measured.planned, measured.logprobs[2:], differences[2:], strict=True)
    ]
    return PatchReport(
        model=model,
        config_digest=info.config_digest,
        weights_digest=info.weights_digest,
        chat_template_digest=info.chat_template_digest,
        n_layers=info.n_layers,
        dtype=info.dtype,
        answers=answers,
        source=source,
        target=target,
        cells=found,
    )
