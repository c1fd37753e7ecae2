"""Validate, capture, fit, evaluate, write, register."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trait_client.errors import InvalidRequestError, VectorFileError
from trait_client.schema import ServiceInfo, is_name
from trait_client.vector_file import VectorFile, sha256_of, write_atomically

from trait_extraction.activations import ActivationService, check_positions, needs_generation, read_activations
from trait_extraction.datasets import TraitDataset
from trait_extraction.evidence import split_scenarios
from trait_extraction.methods import METHODS
from trait_extraction.vectors import Provenance, Settings, build_vectors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extracted:
    """One vector file of a run.

    Args:
        path: Where it stands.
        vector: Its content.
        sha256: Its identity.
        reused: It stood there already, made from the same.
        registered: Its name at the service; None if it was not registered.
    """

    path: Path
    vector: VectorFile
    sha256: str
    reused: bool
    registered: str | None


def run(
    service: ActivationService,
    jobs: Sequence[tuple[TraitDataset, Settings]],
    methods: Sequence[str],
    out: Path,
    *,
    register: bool = False,
    force: bool = False,
    allow_unchecked: bool = False,
    report: Callable[[str], None] = logger.info,
) -> list[Extracted]:
    """Make the vector files of each trait, one for each method, as `<out>/<trait>/<method>.safetensors`.

    A file that was made from the same dataset, model, method and settings is kept. Everything that can be checked is
    checked before the model reads anything.

    Args:
        service: Where the model runs.
        jobs: Traits, and how their vectors are made.
        methods: Names of methods; the first one's vector is registered as `<trait>`, others as `<trait>.<method>`.
        out: The folder of vector files.
        register: Put every vector into the service's registry.
        force: Make files again that stand already.
        allow_unchecked: Use generated replies although nothing tells that they show the trait.
        report: Takes a line of progress.

    Returns:
        The vector files, in order of trait and method.

    Raises:
        InvalidRequestError: A method, a name, positions or replies that cannot be used.
        DatasetError: A scenario has nothing to read at the positions.
        DirectionError: The activations define no direction.
        ServiceError: The service failed.
    """
    names = {dataset.trait: registry_names(dataset.trait, methods) for dataset, _ in jobs}
    for dataset, settings in jobs:
        check_positions(dataset, settings.positions)
        split_scenarios(dataset.n_scenarios, settings.held_out, settings.seed)
        if needs_generation(dataset, settings.positions) and not allow_unchecked:
            raise InvalidRequestError(_unchecked(dataset), param="allow_unchecked")
    info = service.info()
    extracted = []
    for dataset, settings in jobs:
        for method, (path, vector, reused) in _make(
            service, info, dataset, settings, methods, out, force=force, report=report
        ).items():
            data = vector.to_bytes()
            if not reused:
                write_atomically(path, data)
            name = names[dataset.trait][method] if register else None
            if name is not None:
                service.put_vector(name, data)
                report(f"{dataset.trait}: registered {method} as {name}")
            extracted.append(Extracted(path, vector, sha256_of(data), reused, name))
    return extracted


def registry_names(trait: str, methods: Sequence[str]) -> dict[str, str]:
    """Method -> name at the service: the trait's own for the first method, `<trait>.<method>` for others.

    Raises:
        InvalidRequestError: No method, an unknown one, or a name that is too long.
    """
    if not methods:
        raise InvalidRequestError(f"no method: give one of {', '.join(METHODS)}", param="method")
    for method in methods:
        if method not in METHODS:
            raise InvalidRequestError(
                f"unknown method {method!r}: the methods are {', '.join(METHODS)}", param="method"
            )
    names = {method: trait if method == methods[0] else f"{trait}.{method}" for method in methods}
    for name in names.values():
        if not is_name(name):
            raise InvalidRequestError(f"{name!r} is no name for a vector: 64 characters at most", param="trait")
    return names


def _make(
    service: ActivationService,
    info: ServiceInfo,
    dataset: TraitDataset,
    settings: Settings,
    methods: Sequence[str],
    out: Path,
    *,
    force: bool,
    report: Callable[[str], None],
) -> dict[str, tuple[Path, VectorFile, bool]]:
    """Method -> (path, vector, reused), one capture for all that are missing."""
    paths = {method: out / dataset.trait / f"{method}.safetensors" for method in methods}
    wanted = {method: Provenance.of(dataset, info, method, settings) for method in paths}
    kept = {} if force else {m: v for m, p in wanted.items() if (v := _standing(paths[m], p)) is not None}
    missing = {method: provenance for method, provenance in wanted.items() if method not in kept}
    for method in kept:
        report(f"{dataset.trait}: {method} stands already, made from the same ({paths[method]})")
    made: dict[str, VectorFile] = {}
    if missing:
        report(f"{dataset.trait}: reading {2 * dataset.n_scenarios} texts at {settings.positions} on {info.model}")
        activations = read_activations(service, dataset, settings.positions, settings.generation)
        report(f"{dataset.trait}: fitting {', '.join(missing)} on {info.n_layers} layers")
        split = split_scenarios(dataset.n_scenarios, settings.held_out, settings.seed)
        made = build_vectors(missing, activations, split)
    return {m: (paths[m], kept[m] if m in kept else made[m], m in kept) for m in paths}


def _standing(path: Path, provenance: Provenance) -> VectorFile | None:
    """The vector file at `path`, if it was made from the same."""
    if not path.is_file():
        return None
    try:
        vector = VectorFile.load(path)
    except VectorFileError as error:
        logger.warning("made again, since it cannot be read: %s", error)
        return None
    return vector if provenance.made(vector.metadata) else None


def _unchecked(dataset: TraitDataset) -> str:
    return (
        f"trait {dataset.trait!r} has no written responses: the model would generate them, and small models often do "
        "not show the trait that a system prompt asks for. The elicitation check (AUC of the trait's metric, 0.8 or "
        "more) is not part of this version: write responses, or pass --allow-unchecked and read some replies yourself"
    )
