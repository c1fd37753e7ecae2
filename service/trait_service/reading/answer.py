"""The answer of `POST /v1/activations`: the readings of all inputs as one safetensors blob."""

from dataclasses import dataclass, field

import numpy as np
import safetensors.numpy
from trait_core.errors import SteeringFailedError
from trait_core.positions import Landmarks
from trait_core.schema import ActivationsMetadata, ActivationsRequest, ServiceInfo, SteeringReport, is_heads
from trait_core.vectors.file import METADATA_KEY
from vllm.outputs import RequestOutput

from trait_service.engine_link.run import report_of
from trait_service.engine_link.workers import Capture, Collected
from trait_service.resolving.resolve import ResolvedSteering


@dataclass(frozen=True)
class ReadText:
    """One input as token ids: prompt, then response.

    Args:
        landmarks: Places in it that positions name.
    """

    ids: list[int]
    n_prompt: int
    landmarks: Landmarks = field(default_factory=Landmarks)


@dataclass(frozen=True)
class Reading:
    """One input as the engine read it; either `capture` or `collected.each` is set."""

    text: ReadText
    output: RequestOutput
    collected: Collected
    capture: Capture | None


def answer(
    readings: list[Reading],
    request: ActivationsRequest,
    model: str,
    info: ServiceInfo,
    layers: list[int],
    positions: list[str],
    steering: ResolvedSteering | None,
) -> bytes:
    """The safetensors answer; its tensors are listed in `ActivationsMetadata`.

    Args:
        readings: One for each input, in order.
        request: The request.
        model: The served name that answers.
        info: The served model, for the metadata.
        layers: Layers read, in order.
        positions: Pools, in the order of each capture.
        steering: Steering applied while reading; None without steering.
    """
    tensors: dict[str, np.ndarray] = {}
    if request.pooling == "none":
        rows = [reading.collected.each for reading in readings if reading.collected.each is not None]
        tensors[f"each/{positions[0]}"] = np.concatenate(rows).astype(np.float32)
        tensors[f"count/{positions[0]}"] = np.array([len(each) for each in rows], np.int32)
    captures = [reading.capture for reading in readings if reading.capture is not None]
    for pool, name in enumerate(positions if captures else []):
        tensors[f"mean/{name}"] = np.stack([capture.mean[pool] for capture in captures]).astype(np.float32)
        if not is_heads(request.at):  # the engine's norms are those of all heads together
            tensors[f"norm/{name}"] = np.stack([capture.norm[pool] for capture in captures]).astype(np.float32)
        tensors[f"count/{name}"] = np.array([capture.count[pool] for capture in captures], np.int32)
    tensors["n_prompt"] = np.array([reading.text.n_prompt for reading in readings], np.int32)
    tensors["n_response"] = np.array([_n_response(reading, request) for reading in readings], np.int32)
    if request.logprobs:
        tensors["nll"] = np.array([_mean_nll(reading) for reading in readings], np.float32)
    metadata = ActivationsMetadata(
        model=model,
        config_digest=info.config_digest,
        chat_template_digest=info.chat_template_digest,
        n_layers=info.n_layers,
        d_model=info.d_model,
        dtype=info.dtype,
        hook_point=request.at,
        width=_width(tensors, positions[0]) if is_heads(request.at) else None,
        layers=layers,
        positions=positions,
        pooling=request.pooling,
        before_steering=request.before_steering,
        responses=[reading.output.outputs[0].text for reading in readings] if request.generate else None,
        steering=_report(readings, steering),
    )
    blob: bytes = safetensors.numpy.save(tensors, metadata={METADATA_KEY: metadata.model_dump_json()})
    return blob


def _width(tensors: dict[str, np.ndarray], positions: str) -> int:
    found = tensors.get(f"mean/{positions}")
    return int((tensors[f"each/{positions}"] if found is None else found).shape[-1])


def _report(readings: list[Reading], steering: ResolvedSteering | None) -> SteeringReport | None:
    return report_of(steering, [reading.collected for reading in readings]) if steering else None


def _n_response(reading: Reading, request: ActivationsRequest) -> int:
    if request.generate:
        return len(reading.output.outputs[0].token_ids)
    return len(reading.text.ids) - reading.text.n_prompt


def _mean_nll(reading: Reading) -> float:
    """Mean nats of the response tokens."""
    table = reading.output.prompt_logprobs or []
    picked = []
    for position in range(reading.text.n_prompt, len(reading.text.ids)):
        entry = table[position] if position < len(table) else None
        if entry is None:
            raise SteeringFailedError(f"the engine gave no logprob of position {position}")
        picked.append(entry[reading.text.ids[position]].logprob)
    return -float(np.mean(picked))
