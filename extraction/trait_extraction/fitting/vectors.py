"""From activations to vector files."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
from trait_core.schema import Elicitation, Generation, LayerEvidence, ServiceInfo, VectorMetadata
from trait_core.vectors.file import VectorFile

from trait_extraction.data.datasets import TraitDataset
from trait_extraction.fitting.evidence import Split, layer_evidence, split_scenarios
from trait_extraction.fitting.geometry import cosine, massive_dimensions
from trait_extraction.fitting.intervals import HeldOut, HeldOutIntervals, held_out_intervals
from trait_extraction.fitting.layer_choice import LayerChoice, choose_layer
from trait_extraction.fitting.methods import METHOD_OPTIONS, METHODS, DirectionError
from trait_extraction.reading.activations import ContrastiveActivations

logger = logging.getLogger(__name__)

Directions = dict[int, npt.NDArray[np.float32]]

LAYER_METHOD = "mean_diff"
"""The method whose evidence chooses the layer, for all of them: methods and controls are compared on one layer."""


@dataclass(frozen=True)
class Settings:
    """How vectors are made of a trait.

    Args:
        positions: The pool that directions are fitted on.
        seed: Of the held-out split and of methods with chance in them.
        held_out: The part of the scenarios that no direction is fitted on.
        splits: How many times scenarios are held out and directions fitted, for the intervals; the file's directions
            are those of the first.
        generation: How replies are made, where the dataset has none.
    """

    positions: str
    seed: int = 0
    held_out: float = 0.25
    splits: int = 8
    generation: Generation = field(default_factory=Generation)

    def split(self, n_scenarios: int) -> list[Split]:
        """The splits, seeded `seed`, `seed + 1`, ..."""
        return [split_scenarios(n_scenarios, self.held_out, self.seed + i) for i in range(self.splits)]


@dataclass(frozen=True)
class Provenance:
    """Everything that decides a vector's directions: fields of `VectorMetadata`, by their names there."""

    trait: str
    model: str
    config_digest: str
    weights_digest: str | None
    n_layers: int
    d_model: int
    method: str
    method_options: dict[str, Any]
    positions: str
    dataset_digest: str
    style: str
    derived: bool
    elicitation: dict[str, Any] | None
    n_positive: int
    n_negative: int
    n_held_out: int
    chat_template_digest: str | None
    seed: int

    @classmethod
    def of(
        cls,
        dataset: TraitDataset,
        info: ServiceInfo,
        method: str,
        settings: Settings,
        elicitation: Elicitation | None = None,
    ) -> "Provenance":
        """The provenance of the vector that these would give; `elicitation` is there if replies were generated."""
        options: dict[str, Any] = {
            **METHOD_OPTIONS[method],
            "held_out": settings.held_out,
            "splits": settings.splits,
            "read_in": " ".join(filter(None, [info.dtype, info.quantization])),
        }
        if elicitation is not None:
            options["generation"] = settings.generation.model_dump()
        split = split_scenarios(dataset.n_scenarios, settings.held_out, settings.seed)
        return cls(
            trait=dataset.trait,
            model=info.model,
            config_digest=info.config_digest,
            weights_digest=info.weights_digest,
            n_layers=info.n_layers,
            d_model=info.d_model,
            method=method,
            method_options=options,
            positions=settings.positions,
            dataset_digest=dataset.digest,
            style=dataset.style,
            derived=dataset.derived,
            elicitation=None if elicitation is None else elicitation.model_dump(),
            n_positive=len(dataset.positive),
            n_negative=len(dataset.negative),
            n_held_out=len(split.held_out),
            chat_template_digest=None if dataset.style == "completions" else info.chat_template_digest,
            seed=settings.seed,
        )

    def made(self, metadata: VectorMetadata) -> bool:
        """Whether a vector file was made from the same."""
        return asdict(self) == metadata.model_dump(include=set(asdict(self)))


def build_vectors(
    provenances: Mapping[str, Provenance],
    activations: ContrastiveActivations,
    splits: Sequence[Split],
    steered: LayerChoice | None = None,
) -> dict[str, VectorFile]:
    """One vector file for each method, from one capture.

    Args:
        provenances: Method -> its provenance.
        activations: Both sides on all layers.
        splits: Directions are fitted on the first one's training scenarios only; the others serve the intervals.
        steered: The layer that steering results chose; None leaves it to the evidence.

    Returns:
        Method -> vector file.

    Raises:
        DirectionError: A layer has no direction; the message names method and layer.
    """
    directions = _fit_all({LAYER_METHOD, *provenances}, activations, splits[0])
    chosen_layer, because = steered or choose_layer(measure(directions[LAYER_METHOD], activations, splits[0]))
    return {
        method: VectorFile(
            VectorMetadata(
                **asdict(provenance),
                layers=_all_evidence(method, directions, activations, splits),
                chosen_layer=chosen_layer,
                chosen_because=because,
                versions=_versions(),
            ),
            directions[method],
        )
        for method, provenance in provenances.items()
    }


def with_layer(vector: VectorFile, choice: LayerChoice) -> VectorFile:
    """The same vector, steering on another layer."""
    layer, because = choice
    return VectorFile(
        vector.metadata.model_copy(update={"chosen_layer": layer, "chosen_because": because}), vector.directions
    )


def fit_directions(method: str, activations: ContrastiveActivations, split: Split) -> Directions:
    """Fit a method on the training scenarios of every layer.

    Returns:
        Layer -> `(d_model,)` float32 unit direction.

    Raises:
        DirectionError: A layer has none; the message names method and layer.
    """
    directions = {}
    for layer in range(activations.positive.shape[1]):
        positive = activations.positive[split.train, layer]
        negative = activations.negative[split.train, layer]
        try:
            directions[layer] = METHODS[method](positive, negative, np.random.default_rng([split.seed, layer]))
        except DirectionError as error:
            raise DirectionError(f"{method}, layer {layer}: {error}") from error
    return directions


def measure(directions: Directions, activations: ContrastiveActivations, split: Split) -> dict[int, LayerEvidence]:
    """What is known of each layer's direction by itself."""
    return {
        layer: layer_evidence(
            direction,
            activations.positive[:, layer],
            activations.negative[:, layer],
            split,
            float(activations.residual_norms[layer]),
        )
        for layer, direction in directions.items()
    }


# ---------------------------------------------------------------------------------------------------- evidence


def _fit_all(wanted: set[str], activations: ContrastiveActivations, split: Split) -> dict[str, Directions]:
    """Method -> directions, of every method: a file's cosines must not depend on which others were asked for."""
    directions = {}
    for method in METHODS:
        try:
            directions[method] = fit_directions(method, activations, split)
        except DirectionError as error:
            if method in wanted:
                raise
            logger.info("no cosine with %s", error)
    return directions


def _all_evidence(
    method: str,
    directions: Mapping[str, Directions],
    activations: ContrastiveActivations,
    splits: Sequence[Split],
) -> dict[int, LayerEvidence]:
    """A method's evidence on every layer, with intervals and geometry."""
    own = directions[method]
    intervals = _intervals(method, own, activations, splits)
    evidence = {}
    for layer, at in measure(own, activations, splits[0]).items():
        massive, share = massive_dimensions(
            np.concatenate([activations.positive[:, layer], activations.negative[:, layer]])
        )
        others = {name: cosine(own[layer], other[layer]) for name, other in directions.items() if name != method}
        evidence[layer] = at.model_copy(
            update={
                "accuracy_interval": intervals[layer].accuracy,
                "auc_interval": intervals[layer].auc,
                "cohens_d_interval": intervals[layer].cohens_d,
                "cosine_methods": others,
                "cosine_previous_layer": cosine(own[layer], own[layer - 1]) if layer - 1 in own else None,
                "massive_dimensions": massive,
                "massive_share": share,
                "massive_share_of_direction": float((own[layer][massive].astype(np.float64) ** 2).sum()),
            }
        )
    return evidence


def _intervals(
    method: str, first: Directions, activations: ContrastiveActivations, splits: Sequence[Split]
) -> dict[int, HeldOutIntervals]:
    """Layer -> intervals of the held-out evidence, the method fitted anew on every further split."""
    fitted = [first, *(fit_directions(method, activations, split) for split in splits[1:])]
    return {
        layer: held_out_intervals(
            [_held_out(one[layer], activations, layer, split) for one, split in zip(fitted, splits, strict=True)],
            np.random.default_rng([splits[0].seed, layer]),
        )
        for layer in first
    }


def _held_out(
    direction: npt.NDArray[np.float32], activations: ContrastiveActivations, layer: int, split: Split
) -> HeldOut:
    wide = direction.astype(np.float64)
    positive = activations.positive[:, layer].astype(np.float64) @ wide
    negative = activations.negative[:, layer].astype(np.float64) @ wide
    centre = float(positive[split.train].mean() + negative[split.train].mean()) / 2
    return HeldOut(positive[split.held_out], negative[split.held_out], centre)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("trait-steering", "numpy", "scikit-learn")}
