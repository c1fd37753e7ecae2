"""Vectors made from one trait's activations: kept in memory, or as vector files, of which those that exist are reused."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from trait_client.results import ResultStore
from trait_core.errors import InvalidRequestError
from trait_core.schema import is_name
from trait_core.storage import sha256_of

from trait_extraction.fitting.directions import LAYER_METHOD, fit
from trait_extraction.fitting.evaluation import evaluate
from trait_extraction.fitting.layer_choice import LayerChoice, choose_layer, steered_layer
from trait_extraction.fitting.methods import METHODS
from trait_extraction.fitting.projections import HeldOutProjections
from trait_extraction.fitting.provenance import Provenance
from trait_extraction.fitting.vectors import build, with_layer
from trait_extraction.output.vector_files import Extracted, Made, VectorFolder
from trait_extraction.plan import Plan
from trait_extraction.reading.activations import as_stored, read
from trait_extraction.reading.reply_check import ReplyCheck
from trait_extraction.reading.source import Source, VectorService

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """Choices of a run beyond the vectors themselves.

    Args:
        register: Put every vector into the service's registry.
        force: Make existing files again, and generate and read their inputs again.
        check: How generated replies are checked.
        results: Result database. If it has a sweep of the trait, the layer that steers best there overrides the one
            chosen from evidence. The evidence is stored there.
        report: Receives progress messages.
    """

    register: bool = False
    force: bool = False
    check: ReplyCheck = field(default_factory=ReplyCheck)
    results: ResultStore | None = None
    report: Callable[[str], None] = logger.info


@dataclass(frozen=True)
class InMemory:
    """The vectors of one trait, in memory."""

    plan: Plan
    source: Source
    methods: Sequence[str]

    def needs_activations(self, _plan: Plan) -> bool:
        """Always read: nothing made before is reused."""
        return True

    def finish(self, plan: Plan, source: Source) -> dict[str, Made]:
        """Make the vectors, by method."""
        return _make(plan, source, self.methods, None)


@dataclass
class InFiles:
    """The vector files of one trait: those that exist are reused."""

    plan: Plan
    source: Source
    methods: Sequence[str]
    service: VectorService
    folder: VectorFolder
    options: RunOptions
    _steered: LayerChoice | None = None
    _reused: dict[str, Made] = field(default_factory=dict)

    def needs_activations(self, plan: Plan) -> bool:
        """Look for the files that exist; True if one is missing."""
        results, trait, info = self.options.results, plan.dataset.trait, self.source.info
        self._steered = None if results is None else steered_layer(results, trait, info)
        if not self.options.force:
            self._reused = _reuse(as_stored(plan, self.source), self.source, self.methods, self.folder, self._steered)
        return len(self._reused) < len(self.methods)

    def finish(self, plan: Plan, source: Source) -> list[Extracted]:
        """Make the missing vectors, and write and register all of them."""
        missing = [method for method in self.methods if method not in self._reused]
        made = self._reused | _make(plan, source, missing, self._steered)
        ordered = {method: made[method] for method in self.methods}
        return _store(plan.name, ordered, self.folder, self.service, self.options)


def registry_names(trait: str, methods: Sequence[str], suffix: str = "") -> dict[str, str]:
    """Method -> name at the service: the trait's own for the first method, `<trait>.<method>` for others.

    With a suffix it is `<trait>.<method><suffix>` for all of them.

    Raises:
        InvalidRequestError: No method, an unknown one, or a name that is too long.
    """
    check_methods(methods)
    names = {method: f"{trait}.{method}{suffix}" for method in methods}
    if not suffix:
        names[methods[0]] = trait
    for name in names.values():
        if not is_name(name):
            raise InvalidRequestError(f"{name!r} is not a name for a vector: 64 characters at most", param="trait")
    return names


def check_methods(methods: Sequence[str]) -> None:
    """Refuse methods that do not exist.

    Raises:
        InvalidRequestError: No method, or an unknown one.
    """
    if not methods:
        raise InvalidRequestError(f"no method: give one of {', '.join(METHODS)}", param="method")
    for method in methods:
        if method not in METHODS:
            raise InvalidRequestError(
                f"unknown method {method!r}: the methods are {', '.join(METHODS)}", param="method"
            )


def _reuse(
    plan: Plan, source: Source, methods: Sequence[str], folder: VectorFolder, steered: LayerChoice | None
) -> dict[str, Made]:
    """Vectors whose files were made from the same inputs, with the layer that steering results chose, if there is one."""
    reused = {}
    for method in methods:
        vector = folder.existing(Provenance.of(plan, source.info, method))
        if vector is None:
            continue
        source.report(f"{plan.name}: {method} exists already, made from the same inputs ({folder.file(method)})")
        reused[method] = Made(vector, reused=True)
        if steered is not None and (vector.metadata.chosen_layer, vector.metadata.chosen_because) != steered:
            source.report(f"{plan.name}: {method} now steers on layer {steered[0]}, which steering results chose")
            reused[method] = Made(with_layer(vector, steered))
    return reused


def _make(plan: Plan, source: Source, methods: Sequence[str], steered: LayerChoice | None) -> dict[str, Made]:
    """Make the vectors of a plan that has its replies, from one capture."""
    if not methods:
        return {}
    n_layers = source.info.n_layers
    activations = read(plan, source).without(plan.settings.massive)
    plan = activations.plan
    source.report(f"{plan.name}: fitting {', '.join(methods)} on {n_layers} layers, {len(plan.splits)} splits")
    fitted = fit(plan, activations, methods)
    evidence = evaluate(plan, activations, fitted)
    choice = steered or choose_layer(evidence[LAYER_METHOD])
    vectors = build(plan, source.info, fitted, evidence, choice)
    return {m: Made(v, HeldOutProjections.of(v, activations, plan.splits[0])) for m, v in vectors.items()}


def _store(
    trait: str, made: Mapping[str, Made], folder: VectorFolder, service: VectorService, options: RunOptions
) -> list[Extracted]:
    """Write the files of one trait, and register them."""
    names = registry_names(trait, list(made), folder.suffix) if options.register else {}
    extracted = []
    for method, one in made.items():
        path, data = folder.store(method, one)
        if method in names:
            service.put_vector(names[method], data)
            options.report(f"{trait}: registered {method} as {names[method]}")
        sha256, name = sha256_of(data), f"{trait}.{method}{folder.suffix}"
        extracted.append(Extracted(path, one.vector, sha256, one.reused, names.get(method), name))
    return extracted
