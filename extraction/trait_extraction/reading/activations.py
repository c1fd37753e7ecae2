"""Reads the activations of a trait's scenarios through the service."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from trait_client.http.activations import Activations
from trait_core.errors import DatasetError, InvalidRequestError, ServiceError
from trait_core.schema import (
    RESID_POST,
    ActivationInput,
    ActivationsMetadata,
    ActivationsRequest,
    HookPoint,
    ServiceInfo,
)
from trait_core.storage import json_sha256

from trait_extraction.data.datasets import Kept, TraitDataset
from trait_extraction.massive import MassiveDimensions
from trait_extraction.plan import PAST_SINKS, Plan, left_out_sentence
from trait_extraction.reading.inputs import activation_input
from trait_extraction.reading.source import Source
from trait_extraction.reading.stage_store import model_identity

NORM_POSITIONS = str(PAST_SINKS)
"""Positions at which the residual norm is measured."""

NOT_IN_EVERY_TEXT = frozenset({"thinking", "answer", "tokens"})
"""Parts that a reply may lack: one that is cut while it reasons has no answer. Such scenarios are left out."""

CHUNK = 512
"""Most texts of one request: what an interrupted run has to read again."""

MAX_ANSWER_BYTES = 256 * 2**20
"""Size of one answer, which holds two pools of each text on all layers."""


@dataclass(frozen=True)
class ContrastiveActivations:
    """Pooled activations of both sides, on every layer.

    Args:
        metadata: The service's description of what was read.
        plan: The plan of these scenarios: without those that have no token at the positions.
        positive: `(n, n_layers, d_model)` float32, residual units; row i is scenario i.
        negative: The same for the other side, `(m, n_layers, d_model)`.
        residual_norms: `(n_layers,)` float64, mean token norm over positions 4 and later of both sides, residual units:
            that of the stream, whatever is read.
        paired: True if row i of both sides is one pair; then n = m.
        massive: Dimensions that are left out, 0 on both sides; None if none are.
    """

    metadata: ActivationsMetadata
    plan: Plan
    positive: npt.NDArray[np.float32]
    negative: npt.NDArray[np.float32]
    residual_norms: npt.NDArray[np.float64]
    paired: bool = True
    massive: MassiveDimensions | None = None

    def without(self, massive: MassiveDimensions | None) -> "ContrastiveActivations":
        """The same with massive dimensions at 0; the residual norms are still those of all dimensions."""
        if massive is None:
            return self
        sides = [
            np.stack([massive.without(side[:, layer], layer) for layer in range(side.shape[1])], axis=1)
            for side in (self.positive, self.negative)
        ]
        return replace(self, positive=sides[0], negative=sides[1], massive=massive)


@dataclass(frozen=True)
class Piece:
    """Texts of one trait that are read in one request and stored together.

    Args:
        plan: The trait, with its replies.
        source: Its source.
        start: Index of the first text in `(*positive, *negative)`.
        inputs: The texts.
        pools: The positions, and those of the residual norm where the stream is read.
        key: Digest of the texts, the positions, the place and the model.
    """

    plan: Plan
    source: Source
    start: int
    inputs: list[ActivationInput]
    pools: tuple[str, ...]
    key: str

    @property
    def request(self) -> ActivationsRequest:
        """The request that reads it alone."""
        return _request(self.inputs, self.pools, self.plan.settings.at)

    def __len__(self) -> int:
        return len(self.inputs)

    def keep(self, answer: Activations) -> None:
        """Store the piece's activations.

        Raises:
            ServiceError: They are not finite.
        """
        _check_finite(answer, self.pools[0])
        self.source.stored.activations.put(self.key, answer)


def pieces(plan: Plan, source: Source) -> list[Piece]:
    """All texts of a trait, in order, in pieces of at most `texts_per_request`."""
    variables = plan.settings.chat_template_kwargs
    dataset, positions = plan.dataset, str(plan.settings.positions)
    inputs = [activation_input(dataset, s, variables) for s in (*dataset.positive, *dataset.negative)]
    at = plan.settings.at
    pools = tuple(dict.fromkeys([positions, NORM_POSITIONS])) if at == RESID_POST else (positions,)
    size, identity = texts_per_request(source.info), model_identity(source.info)
    found = []
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        key = json_sha256([identity, request_identity(_request(part, pools, at))])
        found.append(Piece(plan, source, start, part, pools, key))
    return found


def _request(inputs: Sequence[ActivationInput], pools: Sequence[str], at: HookPoint) -> ActivationsRequest:
    return ActivationsRequest(inputs=list(inputs), positions=list(pools), at=at)


def texts_per_request(info: ServiceInfo) -> int:
    """Most texts of one request: what the service takes, and what keeps the answer below 256 MiB."""
    of_one_text = 2 * info.n_layers * info.d_model * 4
    return max(1, min(CHUNK, info.limits.max_activation_inputs, MAX_ANSWER_BYTES // of_one_text))


def read_pieces(packed: Sequence[Piece]) -> tuple[dict[int, ServiceError], int]:
    """Read pieces of any traits in one request, and store each in its own trait's folder.

    Args:
        packed: Pieces with the same positions and place, for the same model.

    Returns:
        `(faults, n_tokens)`: index of a piece -> reason why it is not stored, and the number of tokens that were read.

    Raises:
        ServiceError: The service refused or failed, or answered for another model.
    """
    first = packed[0]
    request = _request([i for piece in packed for i in piece.inputs], first.pools, first.plan.settings.at)
    answer = first.source.model.activations(request)
    _check_model(answer, first.source.info)
    faults, start = {}, 0
    for at, piece in enumerate(packed):
        try:
            piece.keep(answer if len(packed) == 1 else answer.part(start, start + len(piece)))
        except ServiceError as error:
            faults[at] = error
        start += len(piece)
    return faults, int(answer.n_prompt.sum() + answer.n_response.sum())


def read(plan: Plan, source: Source) -> ContrastiveActivations:
    """Read both sides of a trait on all layers.

    Args:
        plan: The trait; with replies, where they are generated (`trait_extraction.reading.elicitation`).
        source: Stored activations are not read again, and what is read is stored.

    Returns:
        Pooled activations and the residual norm of each layer. A scenario without the reasoning, the answer or the tokens
        that the positions name is left out, of pairs both sides; the source reports how many.

    Raises:
        InvalidRequestError: The replies are yet to be generated.
        DatasetError: A scenario has no token at the positions.
        ServiceError: The service failed, answered for another model, or with values that are not finite.
    """
    dataset, positions = plan.dataset, str(plan.settings.positions)
    if plan.needs_replies:
        raise InvalidRequestError(f"trait {dataset.trait!r} has no replies yet: generate them first", param="positions")
    answers = [_stored_or_read(piece) for piece in pieces(plan, source)]
    plan, kept = present(plan, np.concatenate([a.count(positions) for a in answers]))
    mean = np.concatenate([a.mean(positions) for a in answers])
    positive, negative = mean[: len(dataset.positive)], mean[len(dataset.positive) :]
    if (gone := plan.left_out) is not None:
        counts = gone.positive, gone.negative
        source.report(f"{plan.name}: {left_out_sentence(counts, positions, paired=dataset.paired)}")
        positive, negative = positive[kept[0]], negative[kept[1]]
    # Doses refer to the stream, which another place does not show: its norms are those of the service's own text.
    at_stream = plan.settings.at == RESID_POST
    norms = residual_norms(answers) if at_stream else np.array(source.info.residual_norms, dtype=np.float64)
    return ContrastiveActivations(answers[0].metadata, plan, positive, negative, norms, dataset.paired)


def as_stored(plan: Plan, source: Source) -> Plan:
    """The plan without the scenarios that `read` would leave out, as far as stored activations tell; nothing is read.

    Raises:
        DatasetError: No scenario, or one that must have them, has a token at the positions.
        InvalidRequestError: Too few scenarios remain on one side of the split.
    """
    if not plan.settings.positions.parts & NOT_IN_EVERY_TEXT or source.again:
        return plan
    answers = [source.stored.activations.get(piece.key) for piece in pieces(plan, source)]
    counts = [answer.count(str(plan.settings.positions)) for answer in answers if answer is not None]
    return present(plan, np.concatenate(counts))[0] if len(counts) == len(answers) else plan


def present(plan: Plan, count: npt.NDArray[np.int32]) -> tuple[Plan, Kept]:
    """Leave out the scenarios that have no token at parts that only some replies have.

    Args:
        plan: The trait, with replies.
        count: Number of tokens at the positions, `(n,)`, of the positive side, then of the negative.

    Returns:
        The plan of the others, the same one if none is left out, and their indices on both sides.

    Raises:
        DatasetError: No scenario, or one that must have them, has a token at the positions.
        InvalidRequestError: Too few scenarios remain on one side of the split.
    """
    dataset, positions = plan.dataset, plan.settings.positions
    n = len(dataset.positive)
    there = [count[:n] > 0, count[n:] > 0]
    if dataset.paired:
        there = [there[0] & there[1]] * 2
    kept = (np.flatnonzero(there[0]).tolist(), np.flatnonzero(there[1]).tolist())
    if (count > 0).all():
        return plan, kept
    if not positions.parts <= NOT_IN_EVERY_TEXT or not (kept[0] and kept[1]):
        _check_counts(dataset, str(positions), count)
    return plan.only(kept), kept


def _stored_or_read(piece: Piece) -> Activations:
    store = piece.source.stored.activations
    answer = None if piece.source.again else store.get(piece.key)
    if answer is None:
        answer = piece.source.model.activations(piece.request)
        _check_model(answer, piece.source.info)
        piece.keep(answer)
    return answer


def request_identity(request: ActivationsRequest) -> dict[str, Any]:
    """Values of a request that are hashed into a key; what was added later is left out where it is not used."""
    values = request.model_dump()
    if values["at"] == RESID_POST:
        del values["at"]
    for item in values["inputs"]:
        if item["chat_template_kwargs"] is None:
            del item["chat_template_kwargs"]
    return values


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


def _check_model(answer: Activations, info: ServiceInfo) -> None:
    metadata = answer.metadata
    if metadata.config_digest != info.config_digest or metadata.layers != list(range(info.n_layers)):
        raise ServiceError(
            f"the service answered layers {metadata.layers[:3]}.. of {metadata.model} ({metadata.config_digest}), not "
            f"all {info.n_layers} layers of {info.model} ({info.config_digest}): was it restarted? Run again"
        )


def _check_finite(answer: Activations, positions: str) -> None:
    mean = answer.mean(positions)[answer.count(positions) > 0]
    if not np.isfinite(mean).all():
        layer = int(np.flatnonzero(~np.isfinite(mean).all(axis=(0, 2)))[0])
        raise ServiceError(f"activations of layer {layer} are not finite: serve the model in float32 or bfloat16")


def _check_counts(dataset: TraitDataset, positions: str, count: npt.NDArray[np.int32]) -> None:
    empty = np.flatnonzero(count == 0)
    if len(empty):
        raise DatasetError(
            f"{dataset.where(int(empty[0]))}: has no position {positions} ({len(empty)} of {len(count)} scenarios have none): read "
            "more positions, or write a longer text"
        )
