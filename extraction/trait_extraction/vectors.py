"""From activations to vector files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
from trait_client.schema import Generation, LayerEvidence, ServiceInfo, VectorMetadata
from trait_client.vector_file import VectorFile

from trait_extraction.activations import ContrastiveActivations, needs_generation
from trait_extraction.datasets import TraitDataset
from trait_extraction.evidence import Split, layer_evidence, split_scenarios
from trait_extraction.layer_choice import choose_layer
from trait_extraction.methods import METHOD_OPTIONS, METHODS, DirectionError

LAYER_METHOD = "mean_diff"
"""The method whose evidence chooses the layer, for all of them: methods and controls are compared on one layer."""


@dataclass(frozen=True)
class Settings:
    """How vectors are made of a trait.

    Args:
        positions: The pool that directions are fitted on.
        seed: Of the held-out split and of methods with chance in them.
        held_out: The part of the scenarios that no direction is fitted on.
        generation: How replies are made, where the dataset has none.
    """

    positions: str
    seed: int = 0
    held_out: float = 0.25
    generation: Generation = field(default_factory=Generation)


@dataclass(frozen=True)
class Provenance:
    """Everything that decides a vector's directions: fields of `VectorMetadata`, by their names there."""

    trait: str
    model: str
    config_digest: str
    n_layers: int
    d_model: int
    method: str
    method_options: dict[str, Any]
    positions: str
    dataset_digest: str
    n_positive: int
    n_negative: int
    n_held_out: int
    chat_template_digest: str | None
    seed: int

    @classmethod
    def of(cls, dataset: TraitDataset, info: ServiceInfo, method: str, settings: Settings) -> "Provenance":
        """The provenance of the vector that these would give."""
        options: dict[str, Any] = {
            **METHOD_OPTIONS[method],
            "held_out": settings.held_out,
            "read_in": " ".join(filter(None, [info.dtype, info.quantization])),
        }
        if needs_generation(dataset, settings.positions):
            options["generation"] = settings.generation.model_dump()
        split = split_scenarios(dataset.n_scenarios, settings.held_out, settings.seed)
        return cls(
            trait=dataset.trait,
            model=info.model,
            config_digest=info.config_digest,
            n_layers=info.n_layers,
            d_model=info.d_model,
            method=method,
            method_options=options,
            positions=settings.positions,
            dataset_digest=dataset.digest,
            n_positive=len(dataset.positive),
            n_negative=len(dataset.negative),
            n_held_out=len(split.held_out),
            chat_template_digest=None if dataset.style == "text" else info.chat_template_digest,
            seed=settings.seed,
        )

    def made(self, metadata: VectorMetadata) -> bool:
        """Whether a vector file was made from the same."""
        return asdict(self) == metadata.model_dump(include=set(asdict(self)))


def build_vectors(
    provenances: Mapping[str, Provenance],
    activations: ContrastiveActivations,
    split: Split,
) -> dict[str, VectorFile]:
    """One vector file for each method, from one capture.

    Args:
        provenances: Method -> its provenance.
        activations: Both sides on all layers.
        split: Directions are fitted on its training scenarios only.

    Returns:
        Method -> vector file.

    Raises:
        DirectionError: A layer has no direction; the message names method and layer.
    """
    found: dict[str, tuple[dict[int, npt.NDArray[np.float32]], dict[int, LayerEvidence]]] = {}
    for method in dict.fromkeys([LAYER_METHOD, *provenances]):
        seed = next(iter(provenances.values())).seed
        directions = fit_directions(method, activations, split, seed)
        found[method] = directions, measure(directions, activations, split)
    chosen_layer, because = choose_layer(found[LAYER_METHOD][1])
    return {
        method: VectorFile(
            VectorMetadata(
                **asdict(provenance),
                layers=found[method][1],
                chosen_layer=chosen_layer,
                chosen_because=because,
                versions=_versions(),
            ),
            found[method][0],
        )
        for method, provenance in provenances.items()
    }


def fit_directions(
    method: str, activations: ContrastiveActivations, split: Split, seed: int
) -> dict[int, npt.NDArray[np.float32]]:
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
            directions[layer] = METHODS[method](positive, negative, np.random.default_rng([seed, layer]))
        except DirectionError as error:
            raise DirectionError(f"{method}, layer {layer}: {error}") from error
    return directions


def measure(
    directions: Mapping[int, npt.NDArray[np.float32]], activations: ContrastiveActivations, split: Split
) -> dict[int, LayerEvidence]:
    """What is known of each layer's direction."""
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


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("trait-steering", "numpy", "scikit-learn")}
