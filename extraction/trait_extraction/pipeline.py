"""Validate, generate, vet, capture, fit, evaluate, write, register.

Each stage keeps what it has done (`trait_extraction.reading.stage_store`, and the vector files themselves), so that the same
command goes on where it was stopped.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trait_client.results import ResultStore
from trait_core.errors import InvalidRequestError
from trait_core.schema import is_name
from trait_core.storage import sha256_of, write_atomically
from trait_core.vectors.file import VectorFile

from trait_extraction.data.datasets import TraitDataset
from trait_extraction.fitting.layer_choice import steered_layer
from trait_extraction.fitting.methods import METHODS
from trait_extraction.fitting.vectors import Settings
from trait_extraction.reading.activations import ActivationService, check_positions, needs_generation
from trait_extraction.reading.elicitation import ElicitationError, Judge, check_can_be_vetted
from trait_extraction.stages import Stages
from trait_extraction.stored_vectors import StoredVector, store

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
        name: In the result database, where it was not registered.
    """

    path: Path
    vector: VectorFile
    sha256: str
    reused: bool
    registered: str | None
    name: str


def run(
    service: ActivationService,
    jobs: Sequence[tuple[TraitDataset, Settings]],
    methods: Sequence[str],
    out: Path,
    *,
    register: bool = False,
    force: bool = False,
    unvetted: bool = False,
    judge: Judge | None = None,
    results: ResultStore | None = None,
    report: Callable[[str], None] = logger.info,
) -> list[Extracted]:
    """Make the vector files of each trait, one for each method, as `<out>/<trait>/<method>.safetensors`.

    Those of a style that is not the trait's default stand in `<out>/<trait>/<style>/`. A file that was made from the same
    dataset, model, method and settings is kept, and so are generated replies and captured activations
    (`<out>/.stages/<trait>/`). Everything that can be checked is checked before the model reads anything.

    Args:
        service: Where the model runs.
        jobs: Traits, and how their vectors are made.
        methods: Names of methods; the first one's vector is registered as `<trait>`, others as `<trait>.<method>`; of a
            style that is not the default as `<trait>.<style>` and `<trait>.<style>.<method>`.
        out: The folder of vector files.
        register: Put every vector into the service's registry.
        force: Make files again that stand already, from replies and activations that are made again.
        unvetted: Use generated replies although nothing tells that they show the trait.
        judge: Vets generated replies; None: none is configured.
        results: Where sweeps are, whose best layer goes before the evidence's, and where the evidence is stored.
        report: Takes a line of progress.

    Returns:
        The vector files, in order of trait and method.

    Raises:
        InvalidRequestError: A method, a name, positions or replies that cannot be used.
        DatasetError: A scenario has nothing to read at the positions.
        ElicitationError: Generated replies do not show the trait, or nothing can tell whether they do.
        DirectionError: The activations define no direction.
        ServiceError: The service failed.
        ResultsError: The database cannot be read or written; the vector files stand.
    """
    names = {dataset.name: registry_names(dataset.name, methods) for dataset, _ in jobs}
    for dataset, settings in jobs:
        check_positions(dataset, settings.positions)
        settings.split(dataset.n_scenarios)
        if needs_generation(dataset, settings.positions):
            check_can_be_vetted(dataset, judge, unvetted=unvetted)
    info = service.info()
    extracted: list[Extracted] = []
    refused: list[str] = []
    for dataset, settings in jobs:
        stages = Stages(service, info, out, dataset, settings, force=force, report=report)
        steered = None if results is None else steered_layer(results, dataset.trait, info)
        try:
            replied, elicitation = stages.elicit(judge, unvetted=unvetted)
        except ElicitationError as error:  # of one trait: the others are made all the same
            report(f"{dataset.name}: refused")
            refused.append(str(error))
            continue
        for method, (path, vector, reused) in stages.make(replied, methods, steered, elicitation).items():
            data = vector.to_bytes()
            if not reused:
                write_atomically(path, data)
            name = names[dataset.name][method] if register else None
            if name is not None:
                service.put_vector(name, data)
                report(f"{dataset.name}: registered {method} as {name}")
            extracted.append(Extracted(path, vector, sha256_of(data), reused, name, f"{dataset.name}.{method}"))
    if results is not None:
        store(results, [StoredVector(e.registered or e.name, e.sha256, e.vector) for e in extracted])
    if refused:
        raise ElicitationError("\n".join(refused))
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
