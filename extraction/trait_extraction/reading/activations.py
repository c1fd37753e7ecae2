"""Activations of a trait's scenarios, read through the service."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from trait_client.http.activations import Activations
from trait_client.http.chat_requests import ChatMessages
from trait_client.http.replies import ChatResult
from trait_core.errors import DatasetError, InvalidRequestError, ServiceError
from trait_core.positions import Positions
from trait_core.schema import ActivationInput, ActivationsMetadata, ActivationsRequest, Message, ServiceInfo, VectorInfo
from trait_core.storage import json_sha256

from trait_extraction.data.datasets import TraitDataset
from trait_extraction.data.scenarios import Scenario
from trait_extraction.reading.stage_store import CaptureStore, model_identity

NORM_POSITIONS = "all[4:]"
"""Where the residual norm is measured: the first positions are attention sinks, many times the usual norm."""

CHUNK = 512
"""Texts of one request at most: what a killed run has to read again."""


class ActivationService(Protocol):
    """What extraction needs of a service; `trait_client.http.TraitClient` has it."""

    def info(self) -> ServiceInfo:
        """What is served."""
        ...

    def activations(self, request: ActivationsRequest) -> Activations:
        """Pooled activations of the inputs, in order."""
        ...

    def chat(
        self,
        messages: ChatMessages,
        *,
        model: str | None = None,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> ChatResult:
        """An unsteered reply; called by several threads at once."""
        ...

    def put_vector(self, name: str, data: bytes) -> VectorInfo:
        """Register a vector file."""
        ...


@dataclass(frozen=True)
class ContrastiveActivations:
    """What the model made of both sides, on every layer.

    Args:
        metadata: The service's description of what was read.
        positive: `(n, n_layers, d_model)` float32, residual units; row i is scenario i.
        negative: The same for the other side.
        residual_norms: `(n_layers,)` float64, mean token norm over positions 4 and later of both sides, residual units.
    """

    metadata: ActivationsMetadata
    positive: npt.NDArray[np.float32]
    negative: npt.NDArray[np.float32]
    residual_norms: npt.NDArray[np.float64]


def read_activations(
    service: ActivationService,
    dataset: TraitDataset,
    positions: str,
    store: CaptureStore | None = None,
    *,
    again: bool = False,
) -> ContrastiveActivations:
    """Read both sides of a trait on all layers.

    Args:
        service: Where the model runs.
        dataset: The trait; of generated replies, with them (`trait_extraction.reading.generation`).
        positions: The pool that directions are fitted on.
        store: What it holds is not read again, and what is read goes there.
        again: Read all the same, and replace what stands.

    Returns:
        Pooled activations and the residual norm of each layer.

    Raises:
        InvalidRequestError: The positions do not fit the dataset.
        DatasetError: The positions are empty for a scenario.
        ServiceError: The service failed, or answered for another model or with values that are not finite.
    """
    check_positions(dataset, positions)
    if needs_generation(dataset, positions):
        raise InvalidRequestError(f"trait {dataset.trait!r} has no replies yet: generate them first", param="positions")
    info = service.info()
    inputs = [activation_input(dataset, s) for s in (*dataset.positive, *dataset.negative)]
    pools = list(dict.fromkeys([positions, NORM_POSITIONS]))
    size = max(1, min(CHUNK, info.limits.max_activation_inputs))
    answers = []
    for start in range(0, len(inputs), size):
        request = ActivationsRequest(inputs=inputs[start : start + size], positions=pools)
        key = json_sha256([model_identity(info), request.model_dump()])
        answer = None if store is None or again else store.get(key)
        if answer is None:
            answer = service.activations(request)
            _check_answer(answer, positions, info)
            if store is not None:
                store.put(key, answer)
        answers.append(answer)
    _check_counts(dataset, positions, np.concatenate([a.count(positions) for a in answers]))
    mean = np.concatenate([a.mean(positions) for a in answers])
    n = dataset.n_scenarios
    return ContrastiveActivations(answers[0].metadata, mean[:n], mean[n:], residual_norms(answers))


def _check_answer(answer: Activations, positions: str, info: ServiceInfo) -> None:
    metadata = answer.metadata
    if metadata.config_digest != info.config_digest or metadata.layers != list(range(info.n_layers)):
        raise ServiceError(
            f"the service answered layers {metadata.layers[:3]}.. of {metadata.model} ({metadata.config_digest}), not "
            f"all {info.n_layers} layers of {info.model} ({info.config_digest}): was it restarted meanwhile? Run again"
        )
    mean = answer.mean(positions)
    if not np.isfinite(mean).all():
        layer = int(np.flatnonzero(~np.isfinite(mean).all(axis=(0, 2)))[0])
        raise ServiceError(f"activations of layer {layer} are not finite: serve the model in float32 or bfloat16")


def residual_norms(answers: Sequence[Activations]) -> npt.NDArray[np.float64]:
    """Mean token norm of each layer over positions 4 and later: `sum_i count_i norm_il / sum_i count_i`.

    Returns:
        `(n_layers,)` float64, residual units.

    Raises:
        DatasetError: No text has a position 4.
        ServiceError: A norm is not finite.
    """
    count = np.concatenate([a.count(NORM_POSITIONS) for a in answers]).astype(np.float64)
    norm = np.concatenate([a.norm(NORM_POSITIONS) for a in answers]).astype(np.float64)
    if count.sum() == 0:
        raise DatasetError("no text is longer than 4 tokens: there is no position to measure the residual norm at")
    norms: npt.NDArray[np.float64] = count[count > 0] @ norm[count > 0] / count.sum()
    if not (np.isfinite(norms) & (norms > 0)).all():
        layer = int(np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))[0])
        raise ServiceError(f"the residual norm of layer {layer} is {norms[layer]}: it must be finite and above 0")
    return norms


def activation_input(dataset: TraitDataset, scenario: Scenario) -> ActivationInput:
    """A scenario as the service reads it: raw text for base models, else a chat and the reply, if there is one."""
    if dataset.style == "completions":
        return ActivationInput(text=scenario.prompt, response=scenario.response)
    return ActivationInput(messages=chat_messages(scenario), response=scenario.response)


def chat_messages(scenario: Scenario) -> list[Message]:
    """The chat before the reply."""
    system = [] if scenario.system_prompt is None else [Message(role="system", content=scenario.system_prompt)]
    return [*system, Message(role="user", content=scenario.prompt)]


# ---------------------------------------------------------------------------------------------------- positions


def default_positions(dataset: TraitDataset) -> str:
    """The reply; of whole raw texts, all but the attention sinks.

    Means over `all[:]` are ruled by the first position's norm, and so by the length of the text: on SmolLM2's middle
    layers mean_diff then tells held-out texts apart hardly better than chance (tests/extraction,
    `test_on_smollm2_raw_text_is_read_without_the_attention_sink`).
    """
    return NORM_POSITIONS if _whole_text(dataset) else "response[:]"


def needs_generation(dataset: TraitDataset, positions: str) -> bool:
    """Whether the model must write the replies before they are read."""
    return dataset.is_generated and Positions.parse(positions).part != "prompt"


def _whole_text(dataset: TraitDataset) -> bool:
    return dataset.style == "completions" and any(s.response is None for s in dataset.positive)


def check_positions(dataset: TraitDataset, positions: str) -> None:
    """Refuse positions that the dataset does not have, or at which its two sides cannot differ.

    Raises:
        InvalidRequestError: Such positions.
    """
    part = Positions.parse(positions).part
    if part == "response" and _whole_text(dataset):
        raise InvalidRequestError(
            f"trait {dataset.trait!r} is raw text, which has no response to read at {positions}: use all[4:]",
            param="positions",
        )
    pairs = zip(dataset.positive, dataset.negative, strict=True)
    same = sum((p.system_prompt, p.prompt) == (q.system_prompt, q.prompt) for p, q in pairs)
    if same and (part == "prompt" or dataset.is_generated):
        raise InvalidRequestError(
            f"trait {dataset.trait!r} has the same prompt on both sides in {same} of {dataset.n_scenarios} scenarios, "
            f"so nothing differs at {positions}: read response[:] of written replies, or write prompts that differ",
            param="positions",
        )


def _check_counts(dataset: TraitDataset, positions: str, count: npt.NDArray[np.int32]) -> None:
    empty = np.flatnonzero(count == 0)
    if len(empty):
        raise DatasetError(
            f"{dataset.where(int(empty[0]))}: has no position {positions} ({len(empty)} of {len(count)} scenarios have none): read "
            "more positions, or write a longer text"
        )
